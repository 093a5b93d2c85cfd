"""A session in one file: seeds, settings, runs and labels, to continue or to repeat.

A zip file of ``session.json`` and of arrays in NumPy's format. Nothing in it is ever executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import napari_slmsam2
from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import SessionFileError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import LoadedImage, atomic_write, read_image
from napari_slmsam2.session.file.archive import (
    FORMAT,
    FORMAT_VERSION,
    explained,
    read_archive,
)
from napari_slmsam2.session.file.arrays import Members, write_array
from napari_slmsam2.session.file.records import (
    Packed,
    Unpacked,
    model_name,
    pack_scores,
    pack_table,
    unpack_scores,
    unpack_table,
)
from napari_slmsam2.session.file.run_state import STATE_VERSION, StatePacker, StateReader
from napari_slmsam2.session.label_array import LabelArray
from napari_slmsam2.session.replay import replay
from napari_slmsam2.session.run_records import RunRecord
from napari_slmsam2.session.session import SegmentationSession

SUFFIX = ".slmsam2"
_SCORES = "scores.npy"

__all__ = [
    "SUFFIX",
    "ImageSource",
    "SessionInfo",
    "describe_session",
    "differences_of_image",
    "load_session",
    "open_image",
    "provenance",
    "replay",
    "save_session",
]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Summary of a session file.

    Attributes
    ----------
    created : datetime
        When it was written, with its time zone.
    labels : tuple of int
        Labels with a seed.
    n_seeds : int
    note : dict
        What was given to `save_session`.
    """

    created: datetime
    labels: tuple[int, ...]
    n_seeds: int
    note: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The file that a session's image comes from, and what was picked from it.

    Attributes
    ----------
    path : path-like
    channel : int or str or None
    time : int or None
    image : int or str or None
    stack : {"channel", "time"} or None
    level : int
    roi : sequence of slice or None
        See `napari_slmsam2.io.read_image`.
    """

    path: str | os.PathLike[str]
    channel: int | str | None = None
    time: int | None = None
    image: int | str | None = None
    stack: Literal["channel", "time"] | None = None
    level: int = 0
    roi: Sequence[slice] | None = None


def save_session(
    session: SegmentationSession,
    path: str | os.PathLike[str],
    *,
    image: ImageSource | None = None,
    note: Mapping[str, Any] | None = None,
    with_state: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a session to one file, completely or not at all.

    Parameters
    ----------
    session : SegmentationSession
    path : path-like
        Usually ends in ``.slmsam2``.
    image : ImageSource, optional
        So that the image is found and verified again. Its voxels are not saved.
    note : mapping, optional
        Values for JSON to be returned by `describe_session`.
    with_state : bool
        Whether to save the state of a run that was stopped, so that `load_session` can continue
        it: memory of the model, soft masks, scores.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    arrays: Members = {"labels.npy": session.labels, _SCORES: pack_scores(session.quality)}
    packed = Packed(arrays)
    runs = [packed.run(number, record) for number, record in enumerate(session.runs)]
    volume = session.volume
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "volume": {
            "name": volume.name,
            "shape": list(volume.shape),
            "axis": volume.axis,
            "spacing": list(volume.spacing),
            "unit": volume.unit,
            "start": list(volume.start),
        },
        "image": None if image is None else _describe_source(image, Path(path)),
        "window": session.window.to_dict(),
        "config": session.config.to_dict(),
        "model": model_name(session.model),
        "device": session.summary()["model"]["device"],
        "prompt_sets": packed.prompt_sets,
        "prompts": packed.prompts,
        "current": packed.prompt_set(session.prompts),
        "touched": sorted(session.dirty),
        "label_table": pack_table(session.annotation.table),
        "note": dict(note or {}),
        "runs": runs,
        "provenance": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": session.summary()["model"],
            **provenance(),
        },
    }

    state = session.paused_state if with_state else None
    if state is not None:
        packer = StatePacker(arrays)
        root = packer.pack(state)
        content["state"] = {"version": STATE_VERSION, "root": root, "nodes": packer.nodes}

    def write(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as file:
            file.writestr("session.json", json.dumps(content, indent=1))
            for name, array in arrays.items():
                with file.open(name, "w", force_zip64=True) as member:
                    write_array(member, array)

    return atomic_write(path, write, overwrite=overwrite)


def provenance() -> dict[str, Any]:
    """Versions of Python, platform and packages."""
    packages = {"napari-slmsam2": napari_slmsam2.__version__}
    for name in ("numpy", "scipy", "scikit-image", "torch", "sam2"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
    }


def describe_session(path: str | os.PathLike[str]) -> SessionInfo:
    """Summarise a session file without reading its arrays.

    Raises
    ------
    SessionFileError
        The file is missing, is no session, is damaged or of a newer version.
    """
    path = Path(path)
    content, _ = read_archive(path)
    with explained(path):
        current = content["prompt_sets"][content["current"]]["prompts"]
        return SessionInfo(
            datetime.fromisoformat(content["provenance"]["created"]),
            tuple(sorted({int(content["prompts"][number]["label"]) for number in current})),
            len(current),
            dict(content.get("note", {})),
        )


def open_image(
    path: str | os.PathLike[str], image: str | os.PathLike[str] | None = None
) -> LoadedImage:
    """The image that a session file belongs to, verified.

    Parameters
    ----------
    path : path-like
        The session file.
    image : path-like, optional
        Where the image is now. Default: where it was, or at the same place beside the file.

    Returns
    -------
    LoadedImage

    Raises
    ------
    SessionFileError
        The session is damaged, the image is missing or is not the one of the session.
    """
    path = Path(path)
    content, _ = read_archive(path)
    with explained(path):
        return _open_image(content, path, image)


def differences_of_image(path: str | os.PathLike[str], image: ImageSource) -> list[str]:
    """In what an image differs from that of a session file: ``image``, ``--time``, ...

    Parameters
    ----------
    path : path-like
        The session file.
    image : ImageSource
        Its level and region are not compared.

    Raises
    ------
    SessionFileError
        The file is missing, is no session, is damaged or of a newer version.
    """
    path = Path(path)
    content, _ = read_archive(path)
    with explained(path):
        saved = content["image"]
        if saved is None:
            return []
        now = _describe_source(image, path)
        # Folders have no hash.
        keys = ("path", "relative_path") if saved["sha256"] is None else ("sha256",)
        differs = [] if any(saved[key] == now[key] for key in keys) else ["image"]
        names = ("image", "channel", "time", "stack")
        return differs + [f"--{name}" for name in names if saved.get(name) != now[name]]


def load_session(
    path: str | os.PathLike[str],
    *,
    image: Volume | None = None,
    model: str | os.PathLike[str] | None = None,
    device: str | None = None,
    models_folder: str | os.PathLike[str] | None = None,
    with_state: bool = False,
    labels: LabelArray | None = None,
) -> SegmentationSession:
    """Read a session: seeds, settings, records and scores of the runs, labels as they were saved.

    Soft masks of the runs are not saved; `replay` computes them again.

    Parameters
    ----------
    path : path-like
    image : Volume, optional
        Default: read from the file that the session names.
    model : str or path-like, optional
        Where the file of weights of the runs is now. Its hash must be the recorded one.
    device : str, optional
        Default: the one of the session.
    models_folder : path-like, optional
        Where files of weights are searched and kept.
    with_state : bool
        Whether to restore the state of a run that was stopped, where the file has one.
    labels : ndarray of int or ChunkedArray, shape of the volume, optional
        Is filled with the saved labels and used by the session. Default: a new array.

    Raises
    ------
    SessionFileError
        The file is missing, is no session, is damaged or of a newer version, or does not
        belong to the image; or the state is one of another version.
    """
    path = Path(path)
    content, arrays = read_archive(path)
    with explained(path):
        volume = _open_image(content, path, None).volume if image is None else image
        _check_volume(content["volume"], volume, path)
        if volume.axis != content["volume"]["axis"]:
            volume = volume.with_axis(content["volume"]["axis"])
        labels = arrays.labels("labels.npy", volume.shape, labels)
        session = SegmentationSession(
            volume,
            model=model or content["model"],
            device=device or content["device"],
            config=PropagationConfig.from_dict(content["config"]),
            window=IntensityWindow.from_dict(content["window"]),
            labels=labels,
            models_folder=models_folder,
        )
        reader = Unpacked(content, arrays, volume)
        runs = [reader.run(n, run) for n, run in enumerate(content["runs"])]
        if model is not None:
            runs = [r if r.sha256 is None else _with_model(r, model) for r in runs]
        prompts = reader.prompt_set(content["current"])
        prompts.check(volume.n_slices, volume.slice_shape)
        dirty = [(int(label), int(index)) for label, index in content["touched"]]
        # Files of earlier versions have no table.
        table = unpack_table(content.get("label_table", ()))
        scores = unpack_scores(arrays.read_any(_SCORES)) if arrays.has(_SCORES) else None
        session.annotation.restore(prompts, runs, dirty, table, scores)
        if with_state and "state" in content:
            if content["state"].get("version") != STATE_VERSION:
                raise SessionFileError(
                    str(path), "holds an interrupted run of another version of napari-slmsam2",
                    hint="Continue it with that version, or start the run again.",
                )  # fmt: skip
            session.config = session.runs[-1].config  # with what was chosen for that run
            state, ready = content["state"], session.load_model()
            states = StateReader(state["nodes"], arrays, ready.device)
            session.restore_paused(states.read(state["root"]))
    return session


def _with_model(record: RunRecord, model: str | os.PathLike[str]) -> RunRecord:
    return dataclasses.replace(record, model=str(model))


def _describe_source(image: ImageSource, path: Path) -> dict[str, Any]:
    place = Path(image.path).absolute()
    try:
        beside: str | None = os.path.relpath(place, path.absolute().parent)
    except ValueError:  # another drive of Windows
        beside = None
    return {
        "path": str(place),
        "relative_path": beside,
        "sha256": _sha256(place) if place.is_file() else None,
        "channel": image.channel,
        "time": image.time,
        "image": image.image,
        "stack": image.stack,
        "level": image.level,
        "roi": None if image.roi is None else [[side.start, side.stop] for side in image.roi],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_image(
    content: Mapping[str, Any], path: Path, image: str | os.PathLike[str] | None
) -> LoadedImage:
    source = content["image"]
    if source is None:
        if image is None:
            raise SessionFileError(
                str(path), "does not contain the path of its image", hint="Specify the image."
            )
        source = {"channel": None, "time": None, "sha256": None}
    place = Path(image) if image is not None else _find_image(source, path)
    axis = content["volume"]["axis"]
    # Files of earlier versions have no image, no stack, no level and no region.
    chosen = {name: source.get(name) for name in ("image", "channel", "time", "stack")}
    roi = source.get("roi")
    loaded = read_image(
        place,
        axis=axis,
        level=int(source.get("level", 0)),
        roi=None if roi is None else [slice(*ends) for ends in roi],
        **chosen,
    )
    _check_volume(content["volume"], loaded.volume, path)
    if source["sha256"] is not None and place.is_file():
        found = _sha256(place)
        if found != source["sha256"]:
            raise SessionFileError(
                str(place),
                f"is not the image of the session {path}",
                expected=f"SHA-256 {source['sha256']}",
                found=found,
            )
    return loaded


def _find_image(source: Mapping[str, Any], path: Path) -> Path:
    places = [Path(source["path"])]
    if source["relative_path"] is not None:
        places.insert(0, path.absolute().parent / source["relative_path"])
    for place in places:
        if place.exists():
            return place
    raise SessionFileError(
        str(path),
        "its image was not found",
        expected=source["path"],
        hint="Specify where the image is now.",
    )


def _check_volume(saved: Mapping[str, Any], volume: Volume, path: Path) -> None:
    # Files of earlier versions are of whole images.
    start = tuple(saved.get("start", (0, 0, 0)))
    if start != volume.start:
        raise SessionFileError(
            volume.name,
            f"is another part of the image than that of the session {path}",
            expected=f"a part from voxel {start}",
            found=f"one from voxel {volume.start}",
        )
    if tuple(saved["shape"]) != volume.shape:
        raise SessionFileError(
            volume.name,
            f"is not the image of the session {path}",
            expected=f"shape {tuple(saved['shape'])}",
            found=f"shape {volume.shape}",
        )
