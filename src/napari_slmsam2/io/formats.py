"""The table of file formats: which module reads and writes a file, by its suffix."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_slmsam2.core.errors import OutputError, VolumeError
from napari_slmsam2.io.unreadable import head_of, refuse_known, refuse_remote

if TYPE_CHECKING:
    from napari_slmsam2.io.raw import RawImage
    from napari_slmsam2.io.selection import Selection


@dataclass(frozen=True)
class FileFormat:
    """A family of files that one module handles.

    Attributes
    ----------
    module : str
        Module beside this one with ``read(path, selection)`` and ``write(path, labels, geometry,
        template, lead)``, where ``lead`` names the axes beside the three of space; of formats with
        several images in one file also ``images(path)``, of those that keep the order of axes
        ``kept_order(template)``, and of those that cannot be written for every image
        ``check_template(path, template)``. Imported on use only.
    package : str
        The package to install where the import fails.
    order : {"xyz", "zyx"}
        The order in which arrays of this format are written.
    readable, writable : tuple of str
        Suffixes, lower case.
    described : bool
        Whether ``write`` takes names and colours of the labels as well.
    has_levels : bool
        Whether files may hold an image at several resolutions.
    is_written_in_blocks : bool
        Whether labels are written with `napari_slmsam2.io.label_stream` instead of ``write``.
    """

    module: str
    package: str
    order: str
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    described: bool = False
    is_written_in_blocks: bool = False
    has_levels: bool = False

    def load(self, path: Path) -> Any:
        """The module.

        Raises
        ------
        VolumeError
            Its package is not installed.
        """
        try:
            return importlib.import_module(f"napari_slmsam2.io.{self.module}")
        except ImportError as error:
            raise VolumeError(
                str(path), "needs a package that is not installed", expected=self.package,
                hint=f"Install {self.package}.",
            ) from error  # fmt: skip

    def read(self, path: Path, selection: Selection) -> RawImage:
        """Open one image of a file.

        Raises
        ------
        VolumeError
            A resolution level was asked for, and the format has none.
        """
        if selection.level and not self.has_levels:
            raise VolumeError(
                str(path), "has one resolution level", expected="level 0, the only one",
                found=f"level {selection.level}",
                hint="Levels are read from OME-Zarr and pyramidal TIFF.",
            )  # fmt: skip
        raw: RawImage = self.load(path).read(path, selection)
        return raw

    def images(self, path: Path) -> tuple[str, ...]:
        """Names of the images in a file, which may be empty strings."""
        module = self.load(path)
        names: tuple[str, ...] = module.images(path) if hasattr(module, "images") else ("",)
        return names

    def files(self, path: Path) -> list[Path]:
        """The files that are read for a path, where these are others than itself."""
        module = self.load(path)
        return list(module.files_of(path)) if hasattr(module, "files_of") else [path]

    def check_image(self, path: Path, template: Any) -> None:
        """Refuse an image that files of this format cannot refer to, before labels are computed.

        Parameters
        ----------
        path : Path
        template : object
            Of the image.

        Raises
        ------
        OutputError
        """
        check = getattr(self.load(path), "check_template", None)
        if check is not None:
            check(path, template)

    def order_to_write(self, path: Path, template: Any) -> str:
        """Names of the axes in which labels are written.

        Parameters
        ----------
        path : Path
        template : object
            Of the image, which may be of another format.
        """
        kept_order = getattr(self.load(path), "kept_order", None)
        kept: str | None = None if kept_order is None else kept_order(template)
        return kept or self.order


_NIFTI = (".nii", ".nii.gz", ".img", ".hdr", ".img.gz", ".hdr.gz")
FORMATS = (
    FileFormat(
        "_nibabel", "nibabel", "xyz",
        (*_NIFTI, ".nii.bz2", ".nii.zst", ".mgh", ".mgz", ".mgh.gz", ".mnc", ".head", ".brik",
         ".brik.gz", ".par", ".rec"),
        (*_NIFTI, ".mgh", ".mgz"),
    ),
    FileFormat("_nrrd", "pynrrd", "xyz", (".nrrd", ".nhdr"), (".nrrd", ".nhdr"),
               described=True),
    FileFormat("_tiff", "tifffile", "zyx", (".tif", ".tiff", ".btf"), (".tif", ".tiff", ".btf"),
               has_levels=True),
    FileFormat("_arrays", "numpy", "zyx", (".npy",), (".npy",)),
    FileFormat("_dicom", "pydicom and highdicom", "zyx", (".dcm", ".dicom", ".ima"), (".dcm",),
               described=True),
    FileFormat("_zarr", "zarr", "zyx", (".zarr",), (".zarr",), is_written_in_blocks=True,
               has_levels=True),
)  # fmt: skip
DICOM = next(known for known in FORMATS if known.module == "_dicom")
_HELD = {".seg.nrrd": "", ".dcm": "", ".mgh": "t", ".mgz": "t"}
"""The axes beside space of formats that cannot hold time points and channels."""
_DICOM_MARK = b"DICM"
_MOST_FILES = 50
"""Files of a folder that are opened to recognise DICOM files."""


def format_to_read(path: Path) -> FileFormat:
    """The format of a file that is to be read.

    A folder is taken as Zarr if it holds Zarr metadata, and as DICOM if one of its first files, or
    of those of its subfolders, is a DICOM file.

    Raises
    ------
    VolumeError
        No such file, or no format that is read. Formats that are known but not read are named,
        with a converter.
    """
    refuse_remote(path)
    if not path.exists():
        raise VolumeError(str(path), "does not exist")
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
            return FORMATS[-1]
        if any(_is_dicom(file) for file in islice(_files_in(path), _MOST_FILES)):
            return DICOM
        raise VolumeError(
            str(path), "is a folder without a Zarr or DICOM image", expected="an image file"
        )
    refuse_known(path)
    for known in FORMATS:
        if path.name.lower().endswith(known.readable) and path.suffix.lower() != ".zarr":
            return known
    if _is_dicom(path):
        return DICOM
    suffixes = ", ".join(s for f in FORMATS for s in f.readable)
    raise VolumeError(
        str(path), "is of no known format", expected=suffixes, found=path.suffix or "no suffix"
    )


def _is_dicom(path: Path) -> bool:
    return path.name.lower().endswith(DICOM.readable) or head_of(path)[128:132] == _DICOM_MARK


def _files_in(folder: Path) -> Iterator[Path]:
    """Files of a folder, those of its subfolders last; nothing where it cannot be read."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries:
        if entry.is_dir():
            yield from _files_in(entry)


def check_holds(path: Path, lead: str) -> None:
    """Refuse a format without axes for a series, before labels are computed or written.

    Parameters
    ----------
    path : Path
    lead : str
        The axes beside the three of space: ``t``, ``c``, ``tc``.

    Raises
    ------
    OutputError
    """
    name = path.name.lower()
    held = next((axes for suffix, axes in _HELD.items() if name.endswith(suffix)), "tc")
    if not set(lead) <= set(held):
        words = {"t": "several time points", "c": "several channels"}
        raise OutputError(
            str(path), f"cannot hold labels of {' and '.join(words[axis] for axis in lead)}",
            found=path.suffix,
            hint="Write .nii.gz, .nrrd, .ome.tif, .ome.zarr or .npy, which hold the whole series.",
        )  # fmt: skip


def format_to_write(path: Path) -> FileFormat:
    """The format in which labels are written to a path.

    Raises
    ------
    OutputError
        The suffix is not one that labels can be written to.
    """
    for known in FORMATS:
        if path.name.lower().endswith(known.writable):
            return known
    suffixes = ", ".join(s for f in FORMATS for s in f.writable)
    raise OutputError(
        str(path), "labels cannot be written in this format", expected=suffixes,
        found=path.suffix or "no suffix", hint="Write .nii.gz for a medical image, .tif or "
        ".ome.zarr for a microscopy one.",
    )  # fmt: skip
