"""What the headers of DICOM files specify about every frame: place, size, intensities, time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from napari_slmsam2.core.errors import VolumeError

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of Segmentation and Label Map Segmentation."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice in a DICOM file.

    Attributes
    ----------
    file : Path
    number : int
        Of the frame in its file, from 0.
    uid : str
        SOP Instance UID of the file.
    series : str
        Series Instance UID.
    label : str
        Number, description and modality of the series.
    shape : tuple of int
        ``(rows, columns)``.
    position : ndarray of float, shape (3,), or None
        Centre of the first pixel in the patient (LPS), in mm.
    directions : ndarray of float, shape (2, 3), or None
        Of increasing column and of increasing row.
    spacing : tuple of float or None
        ``(row, column)`` distance of pixel centres, in mm.
    thickness : float or None
        Distance of slices that the header specifies, for a series of one slice.
    slope, intercept : float
    kind : tuple of str
        What tells apart images of one place that are no time points: echo time, type of image.
    time : tuple of float
        Sorts the frames of one place: temporal position, trigger time, time of acquisition, number
        of the instance and of the frame.
    time_step : float or None
        Temporal resolution in ms, where the header specifies it.
    segment : int
        Number of the segment, in a segmentation; else 0.
    """

    file: Path
    number: int
    uid: str
    series: str
    label: str
    shape: tuple[int, int]
    position: Vector | None
    directions: Vector | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float
    kind: tuple[str, ...]
    time: tuple[float, ...]
    time_step: float | None
    segment: int = 0


@dataclass(frozen=True, eq=False)
class Scan:
    """The content of some DICOM files.

    Attributes
    ----------
    frames : list of Frame
        Of grey images.
    segmentations : list of Path
    refused : list of str
        Other objects, each with the reason why it is no image.
    """

    frames: list[Frame]
    segmentations: list[Path]
    refused: list[str]


def read_header(file: Path, *, force: bool = False) -> Dataset | None:
    """The header of a DICOM file; None where it is another file.

    Raises
    ------
    VolumeError
        It is damaged.
    """
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, force=force)
    except InvalidDicomError:
        return None
    except Exception as error:
        raise VolumeError(
            str(file), "its DICOM header cannot be read", found=f"{type(error).__name__}: {error}",
            hint="The file is damaged or was not copied completely.",
        ) from error  # fmt: skip


def scan_files(files: Iterable[Path]) -> Scan:
    """Read the headers of files; those that are no DICOM files are left out."""
    stamps = []
    for file in files:
        status = file.stat()
        stamps.append((file, status.st_mtime_ns, status.st_size))
    return _scan(tuple(stamps))


@lru_cache(maxsize=2)
def _scan(stamps: tuple[tuple[Path, int, int], ...]) -> Scan:
    """The images of a folder are listed, and read one by one: headers are kept meanwhile."""
    scan = Scan([], [], [])
    for file, _, _ in stamps:
        header = read_header(file, force=file.suffix.lower() in (".dcm", ".dicom", ".ima"))
        if header is None:
            continue
        if str(header.get("SOPClassUID")) in SEGMENTATIONS:
            scan.segmentations.append(file)
            continue
        reason = _refusal(header)
        if reason:
            scan.refused.append(f"{file.name} ({reason})")
        else:
            scan.frames.extend(frames_of(file, header))
    return scan


def _refusal(header: Dataset) -> str:
    """Why an object is no grey image; empty where it is one."""
    if "Rows" not in header or "Columns" not in header:
        return f"no image: {header.get('Modality') or 'no modality'}"
    kind = str(header.get("PhotometricInterpretation", ""))
    if int(header.get("SamplesPerPixel", 1)) != 1 or not kind.startswith("MONOCHROME"):
        return f"colours: {kind}"
    return ""


def frames_of(file: Path, header: Dataset) -> list[Frame]:
    """The frames of a file: one, or those of a multi-frame object."""
    n_frames = int(header.get("NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * n_frames
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    offsets = header.get("GridFrameOffsetVector")
    frames = [
        _frame(file, header, number, _Groups(header, shared, group))
        for number, group in enumerate(groups)
    ]
    if offsets is None or len(offsets) != len(frames) or len(frames) == 1:
        return frames
    # They count from the first frame or, in some files, are places in the patient.
    first = float(offsets[0])
    return [_moved(f, float(offset) - first) for f, offset in zip(frames, offsets, strict=True)]


class _Groups:
    """Looks values up for one frame: in its own groups, the shared ones, then the header."""

    def __init__(self, header: Dataset, shared: Dataset, own: Dataset) -> None:
        self._header, self._places = header, (own, shared)

    def get(self, sequence: str, keyword: str) -> Any:
        for place in self._places:
            for item in place.get(sequence) or ():
                if item.get(keyword) is not None:
                    return item.get(keyword)
        return self._header.get(keyword)


def _frame(file: Path, header: Dataset, number: int, groups: _Groups) -> Frame:
    position = _numbers(groups.get("PlanePositionSequence", "ImagePositionPatient"), 3)
    directions = _numbers(groups.get("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _numbers(groups.get("PixelMeasuresSequence", "PixelSpacing"), 2)
    between = groups.get("PixelMeasuresSequence", "SpacingBetweenSlices")
    thick = groups.get("PixelMeasuresSequence", "SliceThickness")
    thickness = next((float(t) for t in (between, thick) if t and float(t) > 0), None)
    slope = groups.get("PixelValueTransformationSequence", "RescaleSlope")
    intercept = groups.get("PixelValueTransformationSequence", "RescaleIntercept")
    scaling = header.get("DoseGridScaling")
    echo = groups.get("MREchoSequence", "EffectiveEchoTime") or header.get("EchoTime")
    image_type = groups.get("MRImageFrameTypeSequence", "FrameType") or header.get("ImageType")
    segment = groups.get("SegmentIdentificationSequence", "ReferencedSegmentNumber")
    number_of_series = header.get("SeriesNumber")
    label = f"{'' if number_of_series is None else number_of_series} " + " ".join(
        str(header.get(key) or "") for key in ("SeriesDescription", "Modality")
    )
    return Frame(
        file,
        number,
        str(header.get("SOPInstanceUID", file)),
        str(header.get("SeriesInstanceUID", "")),
        " ".join(label.split()),
        (int(header.Rows), int(header.Columns)),
        position,
        None if directions is None else directions.reshape(2, 3),
        None if spacing is None else (float(spacing[0]), float(spacing[1])),
        thickness,
        float(1 if slope is None else slope) * float(1 if scaling is None else scaling),
        float(0 if intercept is None else intercept),
        ("" if echo is None else f"echo {float(echo):g}", "\\".join(map(str, image_type or ()))),
        _time(header, groups, number),
        _positive(header.get("TemporalResolution")),
        int(segment or 0),
    )


def _time(header: Dataset, groups: _Groups, number: int) -> tuple[float, ...]:
    index = groups.get("FrameContentSequence", "TemporalPositionIndex")
    index = header.get("TemporalPositionIdentifier") if index is None else index
    trigger = groups.get("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")
    trigger = header.get("TriggerTime") if trigger is None else trigger
    values = (index, trigger, _seconds(header.get("AcquisitionTime")), header.get("InstanceNumber"))
    return (*(float(0 if v in (None, "") else v) for v in values), float(number))


def _seconds(text: Any) -> float:
    """``HHMMSS.FFFFFF`` in seconds."""
    digits = str(text or "").replace(":", "").strip()
    if len(digits) < 6 or not digits[:6].isdecimal():
        return 0.0
    return 3600 * int(digits[:2]) + 60 * int(digits[2:4]) + float(digits[4:])


def _positive(value: Any) -> float | None:
    return float(value) if value not in (None, "") and float(value) > 0 else None


def _numbers(values: Sequence[Any] | None, n: int) -> Vector | None:
    if values is None or isinstance(values, str) or len(values) != n:
        return None
    numbers = np.array([float(v) for v in values])
    return numbers if np.isfinite(numbers).all() else None


def _moved(frame: Frame, offset: float) -> Frame:
    """A frame of a dose grid, which lies off the first one along the normal."""
    if frame.position is None or frame.directions is None:
        return frame
    from dataclasses import replace

    normal = np.cross(*frame.directions)
    return replace(frame, position=frame.position + offset * normal)
