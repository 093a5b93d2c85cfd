"""Which module reads and writes a file, by its suffix."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_slmsam2.core.errors import OutputError, VolumeError


@dataclass(frozen=True)
class FileFormat:
    """A family of files that one module handles.

    Attributes
    ----------
    module : str
        Module beside this one with ``read(path)`` and ``write(path, labels, geometry, template)``.
        Imported on use only.
    package : str
        The package to install where the import fails.
    order : {"xyz", "zyx"}
        The order in which arrays of this format are written.
    readable, writable : tuple of str
        Suffixes, lower case.
    coloured : bool
        Whether ``write`` takes the colours of the labels as well.
    """

    module: str
    package: str
    order: str
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    coloured: bool = False

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


_NIFTI = (".nii", ".nii.gz", ".img", ".hdr", ".img.gz", ".hdr.gz")
FORMATS = (
    FileFormat(
        "_nibabel", "nibabel", "xyz",
        (*_NIFTI, ".nii.bz2", ".nii.zst", ".mgh", ".mgz", ".mgh.gz", ".mnc", ".head", ".brik",
         ".brik.gz", ".par", ".rec"),
        (*_NIFTI, ".mgh", ".mgz"),
    ),
    FileFormat("_nrrd", "pynrrd", "xyz", (".nrrd", ".nhdr"), (".nrrd", ".nhdr")),
    FileFormat("_tiff", "tifffile", "zyx", (".tif", ".tiff", ".btf"), (".tif", ".tiff", ".btf")),
    FileFormat("_arrays", "numpy", "zyx", (".npy",), (".npy",)),
    FileFormat("_zarr", "zarr", "zyx", (".zarr",), (".zarr",), coloured=True),
)  # fmt: skip


def format_to_read(path: Path) -> FileFormat:
    """The format of a file that is to be read.

    A folder is taken as Zarr if it holds Zarr metadata.

    Raises
    ------
    VolumeError
        No such file, or no known format.
    """
    if not path.exists():
        raise VolumeError(str(path), "does not exist")
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
            return FORMATS[-1]
        raise VolumeError(str(path), "is a folder that is no Zarr image", expected="an image file")
    for known in FORMATS:
        if path.name.lower().endswith(known.readable) and path.suffix.lower() != ".zarr":
            return known
    suffixes = ", ".join(s for f in FORMATS for s in f.readable)
    raise VolumeError(
        str(path), "is of no known format", expected=suffixes, found=path.suffix or "no suffix"
    )


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
