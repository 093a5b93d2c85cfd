"""Runs that continue where they were interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_slmsam2.cli._console import log, show_note
from napari_slmsam2.cli._inputs import image_source
from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.session.file import differences_of_image, load_session, save_session
from napari_slmsam2.session.session import SegmentationSession

if TYPE_CHECKING:
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.session.file import ImageSource


def load_kept_run(
    path: Path,
    fresh: SegmentationSession,
    source: ImageSource,
    write_range: tuple[int, int] | None,
) -> SegmentationSession:
    """The session of an interrupted run, ready to `resume`.

    Parameters
    ----------
    path : Path
        A session file with the state of the run.
    fresh : SegmentationSession
        As the command would start it: seeds, settings and model must be those of the kept run.
    source : ImageSource
        The image of ``fresh``, which must be that of the kept run.
    write_range : tuple of int or None
        Of ``--range``.

    Returns
    -------
    SegmentationSession
        ``fresh`` itself where there is no such file.

    Raises
    ------
    SessionFileError
        The file is no session, or belongs to another image.
    ConfigError
        It holds no interrupted run, or one with other seeds or settings.
    """
    if not path.exists():
        show_note(f"{path} does not exist: the run starts at its beginning.")
        return fresh
    kept = load_session(
        path,
        image=fresh.volume,
        device=fresh.device,
        with_state=True,
        labels=None if isinstance(fresh.labels, np.ndarray) else fresh.labels,
    )
    if kept.paused_state is None:
        raise ConfigError(
            f"--resume {path}",
            "holds no interrupted run",
            hint="Files of --resume, and of --session with --keep-partial, hold one after an "
            "interruption.",
        )
    differs = [*differences_of_image(path, source), *_differences(kept, fresh)]
    if kept.runs[-1].write_range != write_range:
        differs.append("--range")
    if differs:
        raise ConfigError(
            f"--resume {path}",
            "holds another run",
            expected=f"the same {' and '.join(differs)}",
            hint="Repeat the options of the interrupted command, or choose another file.",
        )
    record = kept.runs[-1]
    log("Resumed", f"{path}: {record.steps} steps are done, {record.seconds:.1f} s of computing")
    return kept


def keep_run(session: SegmentationSession, path: Path, options: PropagateOptions) -> None:
    """Write the session of an interrupted run with its state."""
    source = image_source(options)
    save_session(session, path, image=source, with_state=True, overwrite=True)


def _differences(kept: SegmentationSession, fresh: SegmentationSession) -> list[str]:
    """In what the kept run differs from the one that the options ask for."""
    return [
        what
        for what, same in (
            ("axis", kept.volume.axis == fresh.volume.axis),
            ("seeds, extents and absent slices", _same_prompts(kept.prompts, fresh.prompts)),
            ("settings", fresh.config.covers(kept.config)),
            ("intensity window", kept.window == fresh.window),
            ("model", kept.runs[-1].sha256 == fresh.load_model().sha256),
            ("model", kept.load_model().name == fresh.load_model().name),
        )
        if not same
    ]


def _same_prompts(one: PromptSet, other: PromptSet) -> bool:
    if dict(one.extents) != dict(other.extents) or one.prompts.keys() != other.prompts.keys():
        return False
    return all(
        prompt.kind is other.prompts[key].kind
        and np.array_equal(_mask(prompt.mask), _mask(other.prompts[key].mask))
        for key, prompt in one.prompts.items()
    )


def _mask(mask: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 0), bool) if mask is None else mask
