"""Writes the results of a run; a file that cannot be written does not cost the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from napari_slmsam2.cli._console import log, show_error
from napari_slmsam2.cli._errors import message_of

if TYPE_CHECKING:
    from napari_slmsam2.io import LabelStream, LoadedImage


@dataclass(frozen=True, slots=True)
class Result:
    """A file to be written.

    Attributes
    ----------
    option : str
        That names the file.
    path : Path
    write : callable
        Writes the file, completely or not at all.
    rescue : callable, optional
        Called where it cannot be written; writes the content elsewhere and returns the path, or
        None where that fails too.
    """

    option: str
    path: Path
    write: Callable[[], object]
    rescue: Callable[[], Path | None] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a `Result`.

    Attributes
    ----------
    result : Result
    problem : str or None
        Why it could not be written.
    rescued : Path or None
        Where its content was written instead.
    """

    result: Result
    problem: str | None = None
    rescued: Path | None = None

    def show(self) -> None:
        """Report it as written or not."""
        option, path = self.result.option, self.result.path
        if self.problem is None:
            log("Wrote", path)
            return
        show_error(f"{option} {path} was not written. {self.problem}")
        if self.rescued is not None:
            show_error(f"{option} was rescued to {self.rescued}")
        elif self.result.rescue is not None:
            show_error(f"{option} could not be written to any other folder either.")


def write_result(result: Result) -> Written:
    """Write a file, or report why not."""
    try:
        result.write()
    except Exception as error:  # noqa: BLE001 - whatever it is must not cost the other files
        rescued = None if result.rescue is None else result.rescue()
        return Written(result, message_of(error), rescued)
    return Written(result)


class LabelsOutput:
    """The file of ``--out``: an OME-Zarr is filled while the run computes, others at its end.

    As a context manager it removes what was not completed.

    Parameters
    ----------
    path : Path
    force : bool
        Whether an existing file may be replaced.
    crop : bool
        See `napari_slmsam2.io.write_labels`.
    """

    def __init__(self, path: Path, *, force: bool, crop: bool = False) -> None:
        self._path, self._force, self._crop = path, force, crop
        self._stream: LabelStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.discard()

    def make_labels(self, image: LoadedImage, highest: int) -> Any:
        """The array of a session's labels; None where it is to be held in memory.

        Raises
        ------
        OutputError
            The file cannot be written for this image.
        """
        from napari_slmsam2.io import LabelStream
        from napari_slmsam2.io.formats import format_to_write

        target = format_to_write(self._path)
        written = image if self._crop or image.whole is None else image.whole
        target.check_image(self._path, written.template)
        if not target.is_written_in_blocks:
            return None
        self._stream = LabelStream(
            self._path, image, highest=highest, overwrite=self._force, crop=self._crop
        )
        return self._stream.labels

    def write(self, labels: Any, image: LoadedImage) -> Path:
        """Complete the file."""
        from napari_slmsam2.io import write_labels

        if self._stream is not None and labels is self._stream.labels:
            return self._stream.finish()
        return write_labels(self._path, labels, image, overwrite=self._force, crop=self._crop)


def rescue_labels(out: Path, labels: Any, image: LoadedImage, *, crop: bool = False) -> Path | None:
    """Write labels that cannot be written to their place to another one.

    Tried are the folder of the file, the current folder, the user's data folder and the folder of
    temporary files; in the format of the file first, as compressed ``.npz`` then.

    Returns
    -------
    Path or None
        None where nothing could be written.
    """
    import numpy as np
    import platformdirs

    from napari_slmsam2.io import atomic_write, write_labels

    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"rescued-{now}-{out.name}"
    data = Path(platformdirs.user_data_dir("napari-slmsam2")) / "rescued"
    folders = (out.parent, Path.cwd(), data, Path(tempfile.gettempdir()))

    def in_format(folder: Path) -> Path:
        return write_labels(folder / name, labels, image, crop=crop)

    def as_array(folder: Path) -> Path:
        return atomic_write(
            folder / f"{name}.npz", lambda file: np.savez_compressed(file, labels=labels)
        )

    for write in (in_format, as_array):
        for folder in folders:
            try:
                if folder == data:
                    folder.mkdir(parents=True, exist_ok=True)
                return write(folder).absolute()
            except Exception:  # noqa: BLE001 - the next place may work
                continue
    return None
