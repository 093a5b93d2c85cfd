"""DICOM: series of slices, multi-frame images and segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import OutputError, VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io._dicom_frames import Frame, read_header, scan_files
from napari_slmsam2.io._dicom_stack import arrange, decode, split_images
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.raw import RawImage
from napari_slmsam2.io.selection import Selection, choose_image


def read(path: Path, selection: Selection) -> RawImage:
    """Open an image of a folder, the series of a file, or a segmentation.

    Parameters
    ----------
    path : Path
        A folder, which is searched with its subfolders, or a file. Of a file with one slice the
        other slices of its series are taken from its folder.
    selection : Selection

    Raises
    ------
    VolumeError
        There is no image, or its slices do not make a volume; see `_dicom_stack.arrange`.
    """
    return read_files(files_of(path), selection, str(path))


def images(path: Path) -> tuple[str, ...]:
    """Names of the images in a folder, or of those that a file belongs to."""
    scanned = _Content(files_of(path), str(path))
    return scanned.names if len(scanned.names) > 1 else ("",)


def read_files(files: Sequence[Path], selection: Selection, what: str) -> RawImage:
    """Open an image of some files; see `read`."""
    content = _Content(files, what)
    names = content.names if len(content.names) > 1 else ("",)
    number = choose_image(what, selection, names)
    if not content.groups:
        from napari_slmsam2.io._dicom_seg import read_segmentation

        return read_segmentation(content.segmentations[number])
    volumes = arrange(content.groups[number], what)
    data = decode(volumes)
    single = len(volumes.times) == 1
    return RawImage(
        data[0] if single else data,
        "zyx" if single else "tzyx",
        "DICOM",
        geometry=volumes.geometry,
        template={
            "dicom": tuple(
                tuple((str(frame.file), frame.number) for frame in volume)
                for volume in volumes.times
            )
        },
    )


class _Content:
    """The images in some files; segmentations only where there are no images.

    Parameters
    ----------
    files : sequence of Path
    what : str
        For messages.

    Attributes
    ----------
    groups : list of list of Frame
        Of every image.
    segmentations : list of Path
    names : tuple of str
        Of all images, or of all segmentations.
    """

    def __init__(self, files: Sequence[Path], what: str) -> None:
        scan = scan_files(files)
        images = split_images(scan.frames)
        self.groups = sorted(images, key=lambda frames: (_number(frames[0]), frames[0].series))
        self.segmentations = scan.segmentations
        if not images and not scan.segmentations:
            raise VolumeError(
                what, "contains no DICOM image", expected="grey slices",
                found=", ".join(scan.refused[:5]) or "no DICOM header that can be read",
                hint="Give the folder of an image series (CT, MR, PET, ...). `dcm2niix -z y -o OUT "
                "FOLDER` converts what is not read here.",
            )  # fmt: skip
        names = [_name(frames) for frames in self.groups]
        self.names = tuple(names or [file.name for file in self.segmentations])


def _number(frame: Frame) -> int:
    first = frame.label.split(" ")[0]
    return int(first) if first.isdecimal() else 0


def _name(frames: Sequence[Frame]) -> str:
    first = frames[0]
    rows, columns = first.shape
    kinds = [kind for kind in first.kind if kind.startswith("echo")]
    echo = f" {kinds[0]}" if kinds else ""
    return f"{first.label}{echo}, {len(frames)} x {rows} x {columns}"


def files_of(path: Path) -> list[Path]:
    """The files that are read for a path: of one slice those of its series in the same folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    header = read_header(path, force=True)
    series = None if header is None else header.get("SeriesInstanceUID")
    if header is None or not series or int(header.get("NumberOfFrames") or 1) > 1:
        return [path]
    siblings = sorted(file for file in path.parent.iterdir() if file.is_file())
    scan = scan_files(siblings)
    for frames in split_images([frame for frame in scan.frames if frame.series == series]):
        if any(frame.file == path for frame in frames):
            return sorted({frame.file for frame in frames})
    return [path]


def check_template(path: Path, template: Any) -> None:
    """Refuse an image without DICOM files, or a part of one.

    Raises
    ------
    OutputError
    """
    if not isinstance(template, dict) or "dicom" not in template:
        raise OutputError(
            str(path), "a DICOM Segmentation refers to the DICOM files of its image",
            expected="a whole image that was read from DICOM",
            hint="Write .nii.gz or .seg.nrrd, or open the DICOM folder of the image (for a part of "
            "it leave --crop out).",
        )  # fmt: skip


def write(
    path: Path,
    labels: npt.NDArray[np.integer],
    geometry: Geometry,
    template: Any,
    table: LabelTable | None = None,
) -> None:
    """Write labels of a DICOM image as DICOM Segmentation; see `_dicom_seg.write_segmentation`.

    Raises
    ------
    OutputError
        The image is no DICOM image, or there are no labels.
    """
    del geometry
    check_template(path, template)
    from napari_slmsam2.io._dicom_seg import write_segmentation

    write_segmentation(path, labels, template, table or LabelTable())
