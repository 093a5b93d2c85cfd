"""DICOM files that tests make, with the place of every voxel computed from the standard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
STUDY, FRAME_OF_REFERENCE = generate_uid(), generate_uid()

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def oblique(angles: Sequence[float] = (0.3, -0.2, 0.4)) -> tuple[float, ...]:
    """Row and column direction of a plane that is turned about all three axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return (*matrix[:, 0], *matrix[:, 1])


def header(sop_class: str, series: str, shape: tuple[int, int], **values: Any) -> Dataset:
    """A header that the standard requires, without place and pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, series
    dataset.FrameOfReferenceUID = FRAME_OF_REFERENCE
    dataset.PatientID, dataset.PatientName = "1", "Phantom"
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "CT", 3, "Abdomen"
    dataset.Manufacturer = "tests"
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    for key, value in values.items():
        setattr(dataset, key, value)
    return dataset


def numbers(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as the standard limits them."""
    return [f"{value:.10g}"[:16] for value in values]


def save_series(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (6, 5, 7),
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.8, 0.6),
    origin: Sequence[float] = (-20.0, 30.0, 100.0),
    step: Sequence[float] | None = None,
    slope: float = 1.0,
    intercept: float = 0.0,
    order: Sequence[int] | None = None,
    leave_out: Sequence[int] = (),
    series: str | None = None,
    seed: int = 0,
    name: str = "IM{:04d}",
    **values: Any,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Write a series of CT slices of random values.

    ``order`` gives the number in the file name (and the instance number) of every slice.

    Returns
    -------
    stored : ndarray of int16, shape (Z, Y, X)
        Slice 0 is the first one along ``step``.
    positions : list of ndarray
        Of the first pixel of every slice (LPS).
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.random.default_rng(seed).integers(-500, 1500, shape).astype(np.int16)
    rows, columns = np.array(orientation[:3]), np.array(orientation[3:])
    step = 2.5 * np.cross(rows, columns) if step is None else np.asarray(step, float)
    series = series or generate_uid()
    positions = [np.asarray(origin, float) + k * step for k in range(shape[0])]
    order = range(shape[0]) if order is None else order
    for k, number in enumerate(order):
        if k in leave_out:
            continue
        dataset = header(CT, series, shape[1:], InstanceNumber=number + 1, SliceThickness=2.5)
        dataset.ImagePositionPatient = numbers(positions[k])
        dataset.ImageOrientationPatient = numbers(orientation)
        dataset.PixelSpacing = numbers(spacing)
        dataset.RescaleSlope, dataset.RescaleIntercept = numbers([slope, intercept])
        dataset.PixelData = stored[k].tobytes()
        for key, value in values.items():
            setattr(dataset, key, value[k] if isinstance(value, list) else value)
        dataset.save_as(folder / name.format(number), enforce_file_format=True)
    return stored, positions


def save_multi_frame(
    path: Path,
    *,
    shape: tuple[int, int, int] = (6, 5, 7),
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.8, 0.6),
    origin: Sequence[float] = (-20.0, 30.0, 100.0),
    order: Sequence[int] | None = None,
    n_times: int = 1,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Write an enhanced MR image whose frames are in any order; see `save_series`."""
    n, *plane = shape
    stored = np.random.default_rng(1).integers(0, 900, (n_times, *shape)).astype(np.int16)
    rows, columns = np.array(orientation[:3]), np.array(orientation[3:])
    positions = [np.asarray(origin, float) + 3.0 * k * np.cross(rows, columns) for k in range(n)]
    places = [(t, k) for t in range(n_times) for k in (order or range(n))]
    dataset = header(ENHANCED_MR, generate_uid(), tuple(plane), Modality="MR")
    dataset.NumberOfFrames = len(places)
    shared, orient, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orient.ImageOrientationPatient = numbers(orientation)
    measures.PixelSpacing, measures.SliceThickness = numbers(spacing), "3"
    values.RescaleSlope, values.RescaleIntercept = numbers([slope, intercept])
    values.RescaleType = "US"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orient], [measures]
    shared.PixelValueTransformationSequence = [values]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for t, k in places:
        group, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = numbers(positions[k])
        content.TemporalPositionIndex = t + 1
        group.PlanePositionSequence, group.FrameContentSequence = [place], [content]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = np.stack([stored[t, k] for t, k in places]).tobytes()
    dataset.InstanceNumber = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return stored, positions


def place_of(
    voxel: Sequence[int],
    positions: Sequence[np.ndarray],
    orientation: Sequence[float],
    spacing: tuple[float, float],
) -> np.ndarray:
    """World place (RAS) of a voxel (slice, row, column), by equation C.7.6.2.1-1 of PS3.3."""
    k, row, column = voxel
    matrix = np.eye(4)
    matrix[:3, 0] = np.array(orientation[:3]) * spacing[1]
    matrix[:3, 1] = np.array(orientation[3:]) * spacing[0]
    matrix[:3, 3] = positions[k]
    x, y, z, _ = matrix @ np.array([column, row, 0, 1.0])
    return np.array([-x, -y, z])


def reread(path: Path) -> Dataset:
    """A file as pydicom reads it."""
    return pydicom.dcmread(path)
