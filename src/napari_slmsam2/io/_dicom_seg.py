"""DICOM Segmentation: labels with the names and colours of their segments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from napari_slmsam2 import __version__
from napari_slmsam2.core.errors import OutputError, VolumeError
from napari_slmsam2.core.label_table import RGBA, LabelTable
from napari_slmsam2.io._dicom_frames import Frame, frames_of
from napari_slmsam2.io._dicom_stack import LPS_TO_RAS
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.raw import RawImage

_MAKER = "napari-slmsam2"
_LABEL = re.compile(rf"{_MAKER} label (\d+)")
_REQUIRED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What the standard requires of a header, if only as an empty text."""

_ON_GRID = 0.1
"""Share of the distance of slices by which a frame may lie beside its slice."""


def read_segmentation(file: Path) -> RawImage:
    """Open a Segmentation: one label map, or a channel per segment where segments overlap.

    Slices that the file leaves out are empty. The grid may be a part of that of the image.

    Raises
    ------
    VolumeError
        It is damaged, or its frames do not lie on the slices of a volume.
    """
    dataset = pydicom.dcmread(file)
    pixels = np.atleast_3d(dataset.pixel_array) if "PixelData" in dataset else None
    if pixels is None:
        raise VolumeError(str(file), "holds no segments")
    if int(dataset.get("NumberOfFrames") or 1) == 1:
        pixels = dataset.pixel_array[np.newaxis]
    frames = frames_of(file, dataset)
    slices, geometry = _grid(frames, file)
    labels, table = _segments(dataset)
    shape = (max(slices) + 1, *frames[0].shape)
    numbers = sorted(labels)
    if str(dataset.get("SegmentationType")) == "LABELMAP":
        data = np.zeros(shape, pixels.dtype)
        data[slices] = pixels
        return _raw(data, "zyx", geometry, (table,))
    if str(dataset.get("SegmentationType")) == "FRACTIONAL":
        pixels = 2 * pixels.astype(np.int64) >= int(dataset.get("MaximumFractionalValue") or 255)
    layers = np.zeros((len(numbers), *shape), bool)
    for frame, index, plane in zip(frames, slices, pixels, strict=True):
        layers[numbers.index(frame.segment), index] |= plane != 0
    highest = max(labels.values())
    if (layers.sum(axis=0, dtype=np.uint16) <= 1).all():
        data = np.zeros(shape, np.min_scalar_type(highest))
        for number, layer in zip(numbers, layers, strict=True):
            data[layer] = labels[number]
        return _raw(data, "zyx", geometry, (table,))
    values = np.array([labels[n] for n in numbers], np.min_scalar_type(highest))
    data = layers * values[:, None, None, None]
    tables = tuple(_only(table, labels[number]) for number in numbers)
    return _raw(data, "czyx", geometry, tables)


def _raw(
    data: npt.NDArray[Any], axes: str, geometry: Geometry, tables: tuple[LabelTable, ...]
) -> RawImage:
    names = tuple(", ".join(t.names.values()) for t in tables) if len(tables) > 1 else ()
    return RawImage(
        data, axes, "DICOM SEG", geometry, {"segments": True, "sparse": True}, channel_names=names,
        label_tables=tables, holds_labels=True,
    )  # fmt: skip


def _only(table: LabelTable, label: int) -> LabelTable:
    return LabelTable(
        {k: v for k, v in table.names.items() if k == label},
        {k: v for k, v in table.colours.items() if k == label},
    )


def _segments(dataset: Dataset) -> tuple[dict[int, int], LabelTable]:
    """The label of every segment number, and names and colours of the labels."""
    labels: dict[int, int] = {}
    names: dict[int, str] = {}
    colours: dict[int, RGBA] = {}
    for item in dataset.SegmentSequence:
        number = int(item.SegmentNumber)
        noted = _LABEL.fullmatch(str(item.get("SegmentDescription", "")))
        label = labels[number] = number if noted is None else int(noted[1])
        names[label] = str(item.get("SegmentLabel") or f"Segment {number}")
        value = item.get("RecommendedDisplayCIELabValue")
        if value is not None and label:
            rgb = hd.color.CIELabColor.from_dicom_value(list(value)).to_rgb(clip=True)
            red, green, blue = (part / 255 for part in rgb)
            colours[label] = red, green, blue, 1.0
    names.pop(0, None)
    return labels, LabelTable(names, colours)


def _grid(frames: Sequence[Frame], file: Path) -> tuple[list[int], Geometry]:
    """The slice of every frame, and the geometry of the slices from the first to the last one."""
    first = frames[0]
    if first.directions is None or first.spacing is None or first.position is None:
        raise VolumeError(
            str(file), "does not specify where its frames lie",
            expected="positions in the patient", hint="Segmentations of slides are not read.",
        )  # fmt: skip
    normal = np.cross(*first.directions)
    positions = np.array([frame.position for frame in frames])
    places = positions @ normal
    steps = np.diff(np.unique(np.round(places, 3)))
    usual = float(first.thickness or 1.0)
    if len(steps) and abs(steps.min() / usual - np.rint(steps.min() / usual)) > _ON_GRID:
        usual = float(steps.min())
    exact = (places - places.min()) / usual
    slices = np.rint(exact).astype(int)
    if np.abs(exact - slices).max() > _ON_GRID:
        raise VolumeError(
            str(file), "its frames lie at unequal distances",
            expected=f"multiples of {usual:.4g} mm",
            found=f"{np.round(np.unique(places - places.min()), 3).tolist()[:8]}",
        )  # fmt: skip
    lowest, highest = int(places.argmin()), int(places.argmax())
    step = normal * usual
    if slices.max():
        step = (positions[highest] - positions[lowest]) / slices.max()
    row, column = first.spacing
    affine = np.eye(4)
    matrix = np.stack([step, first.directions[1] * row, first.directions[0] * column], axis=1)
    affine[:3, :3] = matrix * LPS_TO_RAS[:, None]
    affine[:3, 3] = positions[lowest] * LPS_TO_RAS
    return slices.tolist(), Geometry((float(np.linalg.norm(step)), row, column), "mm", affine)


def write_segmentation(
    path: Path, labels: npt.NDArray[np.integer], template: Any, table: LabelTable
) -> None:
    """Write labels of a DICOM image as a binary DICOM Segmentation that refers to it.

    Segments are numbered from 1 in the order of their labels; the label is noted in the description
    of the segment, and read again from there.

    Parameters
    ----------
    path : Path
    labels : ndarray of unsigned int, shape (Z, Y, X)
    template : object
        Of the image, read by `_dicom.read`.
    table : LabelTable
        Names and colours.

    Raises
    ------
    OutputError
        There are no labels, or the DICOM files of the image cannot be read again.
    """
    found = [int(label) for label in np.unique(labels) if label]
    if not found:
        raise OutputError(
            str(path), "a DICOM Segmentation needs a segment", found="only background",
            hint="Write .nii.gz for an empty label map.",
        )  # fmt: skip
    frames = template["dicom"][0]
    sources = _sources(frames, path)
    numbered = np.searchsorted([0, *found], labels).astype(np.min_scalar_type(len(found)))
    with warnings.catch_warnings():
        # Names of patients are those of the image, whatever their form.
        warnings.filterwarnings("ignore", message=".*single component")
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=_in_source_order(numbered, frames, sources),
            segmentation_type="BINARY",
            segment_descriptions=[
                _description(number, label, table) for number, label in enumerate(found, 1)
            ],
            series_instance_uid=hd.UID(),
            series_number=int(sources[0].get("SeriesNumber") or 0) % 1000 + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MAKER,
            software_versions=__version__,
            device_serial_number="0",
            content_label="LABELS",
            series_description="Segmentation",
        )
    segmentation.save_as(path)


def _sources(frames: Sequence[tuple[str, int]], path: Path) -> list[Dataset]:
    """The headers of the image, with what the standard requires."""
    sources: list[Dataset] = []
    for file in dict.fromkeys(file for file, _ in frames):
        try:
            source = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        except OSError as error:
            raise OutputError(
                str(path), "the DICOM files of the image cannot be read again", found=str(error),
                hint="Are they still in their folder? Else write .nii.gz.",
            ) from error  # fmt: skip
        for keyword in _REQUIRED:
            if keyword not in source:
                setattr(source, keyword, "")
        sources.append(source)
    return sources


def _in_source_order(
    labels: npt.NDArray[Any], frames: Sequence[tuple[str, int]], sources: Sequence[Dataset]
) -> npt.NDArray[Any]:
    """The slices in the order of the frames of the source; frames of other volumes are empty."""
    if len(sources) > 1 or int(sources[0].get("NumberOfFrames") or 1) == 1:
        return labels
    ordered = np.zeros((int(sources[0].NumberOfFrames), *labels.shape[1:]), labels.dtype)
    ordered[[number for _, number in frames]] = labels
    return ordered


def _description(number: int, label: int, table: LabelTable) -> hd.seg.SegmentDescription:
    colour = table.colours.get(label)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=table.names.get(label, f"Label {label}")[:64],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=_MAKER, family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
        display_color=None
        if colour is None
        else hd.color.CIELabColor.from_rgb(*(255 * part for part in colour[:3])),
    )
    segment.SegmentDescription = f"{_MAKER} label {label}"
    return segment
