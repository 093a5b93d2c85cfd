"""Labels and sessions to files, in a worker thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels

from napari_slmsam2.core.errors import SessionFileError, SlmSam2Error
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import LoadedImage, read_image, write_labels
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.layer_grid import (
    METADATA_KEY,
    layer_time,
    lead_axes,
    loaded_image,
    with_lead_first,
)
from napari_slmsam2.io.raw import Colours
from napari_slmsam2.io.selection import Selection
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.run_records import RunRecord
from napari_slmsam2.widgets.runs.task import RunRequest
from napari_slmsam2.widgets.workspace.grid import (
    SliceView,
    grid_shape,
    make_volume,
    world_affine,
)
from napari_slmsam2.widgets.workspace.stacks import Stack

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession

_Result = TypeVar("_Result")

LABEL_FILTER = (
    "NIfTI (*.nii.gz *.nii);;TIFF (*.ome.tif *.tif *.tiff);;OME-Zarr (*.ome.zarr *.zarr);;"
    "NRRD (*.nrrd);;3D Slicer segmentation (*.seg.nrrd);;MGH (*.mgz);;NumPy (*.npy);;"
    "DICOM Segmentation (*.dcm)"
)


def describe_image(image: Image, view: SliceView) -> tuple[Path | None, LoadedImage]:
    """What a writer must know of the image on screen.

    Returns
    -------
    path : Path or None
        The file that the image came from.
    image : LoadedImage
        For an image without a file of its own: the grid of the layer.
    """
    path = image.source.path
    volume = make_volume(image, view)
    lead = lead_axes(grid_shape(image), image.axis_labels, view.axes)
    time = layer_time(lead, image.scale, image.units, image.translate)
    known = image.metadata.get(METADATA_KEY)
    if (
        known is not None
        and tuple(known["shape"]) == volume.shape
        and _same_voxel_size(known["spacing"], volume.spacing)
    ):
        grid = loaded_image(known, volume.data)
        geometry = replace(grid.geometry, time=grid.geometry.time or time)
        grid = replace(grid, geometry=geometry)
    else:
        geometry = Geometry(volume.spacing, volume.unit, world_affine(image, view), time=time)
        dtype = np.dtype(volume.data.dtype)
        name = Path(path or image.name)
        grid = LoadedImage(volume, name, "napari", dtype, "", "zyx", geometry, None)
    held = {x: index for a, index in view.held if (x := lead.get(a)) in ("t", "c")}
    selection = Selection(channel=held.get("c"), time=held.get("t"))
    grid = replace(grid, volume=grid.volume.with_axis(volume.axis), selection=selection)
    return (None if path is None else Path(path)), grid


def all_labels(
    labels: Labels, view: SliceView
) -> tuple[Callable[[], npt.NDArray[np.integer]], str]:
    """All labels of a layer, to be read in another thread.

    Returns
    -------
    read : callable
        Gives the labels, of a series those of every time point and channel: as they are now, or,
        of an array on the disk, as they are when it is called. The axes beside the three of the
        view come first.
    lead : str
        What these are, see `write_labels`.
    """
    lead = lead_axes(grid_shape(labels), labels.axis_labels, view.axes)
    data = labels.data.copy() if isinstance(labels.data, np.ndarray) else labels.data
    return partial(with_lead_first, data, view.axes, lead), "".join(lead.values())


def save_labels(
    path: Path,
    labels: npt.NDArray[Any],
    source: Path | None,
    grid: LoadedImage,
    colours: Colours | None = None,
    lead: str = "",
    table: LabelTable | None = None,
) -> Path:
    """Write labels on the grid of the file that the image came from, else of its layer.

    Parameters
    ----------
    path : Path
    labels : ndarray of int, shape of the grid, after the axes of ``lead``
    source, grid : Path or None, LoadedImage
        See `describe_image`.
    colours : callable, optional
    lead : str
    table : LabelTable, optional
        See `write_labels`.

    Raises
    ------
    SlmSam2Error
        They cannot be written; see `write_labels`.
    """
    like = _as_in_file(source, grid)
    return write_labels(path, labels, like, overwrite=True, colours=colours, table=table, lead=lead)


def save_session(path: Path, snapshot: Snapshot, source: Path | None, grid: LoadedImage) -> Path:
    """Write seeds, settings, runs and labels to a session file."""
    from napari_slmsam2.session.file import ImageSource
    from napari_slmsam2.session.file import save_session as save

    found = _as_in_file(source, grid)
    image = None if found is grid else ImageSource(found.path)
    return save(snapshot.session(), path, image=image, overwrite=True)


def read_session(path: Path, volume: Volume) -> SegmentationSession:
    """Read a session of an image that is open.

    Raises
    ------
    SessionFileError
        It cannot be read, is of another image, or its slices lie along another axis.
    """
    from napari_slmsam2.session.file import load_session

    session = load_session(path, image=volume)
    if session.volume.axis != volume.axis:
        raise SessionFileError(
            str(path),
            "has its slices along another axis than the view",
            expected=f"axis {session.volume.axis} of the image along the slider",
            found=f"axis {volume.axis}",
            hint="Roll the axes (Ctrl+E) and open it again.",
        )
    return session


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The work on a stack of slices, to be written in another thread.

    Attributes
    ----------
    annotation : Annotation
        Asked for labels and intensity window only. The labels are not copied.
    request : RunRequest
        The settings.
    prompts : PromptSet
    runs : tuple of RunRecord
    dirty : frozenset of (label, index)
        See `Annotation.dirty`.
    note : dict
        Name of the layer, and the place of the stack in it.
    """

    annotation: Annotation
    request: RunRequest
    prompts: PromptSet
    runs: tuple[RunRecord, ...]
    dirty: frozenset[tuple[int, int]]
    note: dict[str, Any]

    @classmethod
    def of(cls, stack: Stack, request: RunRequest) -> Snapshot:
        """The work as it is now; called on the GUI thread."""
        annotation, sink = stack.annotation, stack.sink
        note = {"layer": sink.name, "view": sink.view.to_dict()}
        runs = tuple(annotation.runs)
        return cls(annotation, request, annotation.prompts, runs, annotation.dirty, note)

    def session(self) -> SegmentationSession:
        """The work as a session that shares the labels; in any thread."""
        from napari_slmsam2.session.session import SegmentationSession

        annotation, request = self.annotation, self.request
        session = SegmentationSession(
            annotation.volume,
            model=request.model,
            device=request.device,
            config=request.config,
            window=annotation.intensity_window(request.window),
            labels=annotation.labels,
        )
        restored = self.prompts, self.runs, self.dirty, annotation.table, annotation.quality
        session.annotation.restore(*restored)
        return session


def save_snapshot(snapshot: Snapshot, path: Path) -> Path:
    """Write unsaved work to a session file; in any thread."""
    from napari_slmsam2.session.file import save_session as save

    return save(snapshot.session(), path, note=snapshot.note, overwrite=True)


def read_snapshots(
    files: Sequence[tuple[Path, Volume]],
) -> list[SegmentationSession]:
    """Read back what `save_snapshot` wrote, given the volume of each."""
    from napari_slmsam2.session.file import load_session

    return [load_session(path, image=volume) for path, volume in files]


def attempt(function: Callable[..., _Result], *args: Any) -> tuple[_Result | None, str]:
    """Call a function in a worker: its result, or None and what went wrong, in words.

    A worker must not return an exception: it would raise it.
    """
    try:
        return function(*args), ""
    except SlmSam2Error as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the worker does not report errors itself
        return None, f"An unexpected error: {type(error).__name__}: {error}"


def _as_in_file(source: Path | None, grid: LoadedImage) -> LoadedImage:
    """The image of the file, where it is the very array of the layer."""
    if source is None or not source.exists():
        return grid
    try:
        chosen = grid.selection
        loaded = read_image(source, axis=grid.volume.axis, channel=chosen.channel, time=chosen.time)
    except SlmSam2Error:
        return grid
    if not _same_voxels(loaded.volume, grid.volume):
        return grid
    # napari's own readers leave the scale at 1; another one was set by the person.
    untouched = _same_voxel_size(grid.volume.spacing, (1.0, 1.0, 1.0))
    is_same = _same_voxel_size(grid.volume.spacing, loaded.volume.spacing)
    return loaded if untouched or is_same else grid


def _same_voxel_size(one: Sequence[float], other: Sequence[float]) -> bool:
    return bool(np.allclose(one, other, rtol=1e-3, atol=0))


def _same_voxels(one: Volume, other: Volume) -> bool:
    """Whether two volumes have the same shape and the same middle slice."""
    if one.shape != other.shape:
        return False
    middle = one.n_slices // 2
    return bool(np.array_equal(one.take(middle), other.take(middle)))
