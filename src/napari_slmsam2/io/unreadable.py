"""Formats and places that are recognised but not read, each with a way to a file that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from napari_slmsam2.core.errors import VolumeError

_HEAD = 1024
"""Bytes from the beginning of a file in which signatures are looked for."""


@dataclass(frozen=True)
class UnreadableFormat:
    """A format that is known but not read.

    Attributes
    ----------
    name : str
    suffixes : tuple of str
        Lower case; taken as a sign only where the suffix belongs to no format that is read.
    signature : bytes
        At ``offset`` from the beginning of a file; empty where there is none.
    offset : int
    hint : str
        How to convert it.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: bytes
    offset: int
    hint: str


_BIOFORMATS = (
    "Convert it to OME-TIFF or OME-Zarr, with Bio-Formats in Fiji (File > Save As > OME-TIFF) or "
    "`bfconvert in out.ome.tif`."
)
FORMATS = (
    UnreadableFormat(
        "MetaImage", (".mha", ".mhd"), b"ObjectType = Image", 0,
        "Convert it with SimpleITK: `SimpleITK.WriteImage(SimpleITK.ReadImage(\"in.mha\"), "
        "\"out.nii.gz\")`, or save it as .nii.gz or .nrrd from 3D Slicer or ITK-SNAP.",
    ),
    UnreadableFormat(
        "MRC", (".mrc", ".mrcs", ".map", ".st", ".ali", ".preali", ".ccp4"), b"MAP ", 208,
        "Convert it with IMOD: `mrc2tif -s in.mrc out.tif`. In Python: `mrcfile.mmap(\"in.mrc\")"
        ".data` is the array, `.voxel_size` its voxel size in angstrom.",
    ),
    UnreadableFormat(
        "an IMOD model", (".mod", ".fid"), b"IMODV1", 0,
        "It holds contours. Fill them into a label map with IMOD: `imodmop -mask 1 model.mod "
        "scan.mrc labels.mrc`, then `mrc2tif -s labels.mrc labels.tif`.",
    ),
    UnreadableFormat(
        "HDF5", (".h5", ".hdf5", ".ims", ".n5", ".mat"), b"\x89HDF\r\n\x1a\n", 0,
        "Save the array in it as OME-Zarr, TIFF or NPY, with `h5py` in Python or with Fiji.",
    ),
    UnreadableFormat(
        "a microscope's own format", (".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".lsm",
        ".dm3", ".dm4"), b"", 0, _BIOFORMATS,
    ),
    UnreadableFormat(
        "a picture", (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"), b"", 0,
        "Save the slices as one TIFF stack, for instance in Fiji: File > Import > Image Sequence, "
        "then File > Save As > Tiff.",
    ),
    UnreadableFormat(
        "an archive", (".zip", ".tar", ".tgz", ".7z", ".rar"), b"", 0,
        "Unpack it and open the file in it.",
    ),
    UnreadableFormat(
        "NumPy's archive of arrays", (".npz",), b"", 0,
        "Save one array of it: `numpy.save(\"scan.npy\", numpy.load(\"in.npz\")[NAME])`.",
    ),
)  # fmt: skip
_HDF5 = next(known for known in FORMATS if known.name == "HDF5")
_REMOTE = re.compile(r"^(?P<scheme>s3|gs|gcs|https?|ftp|abfss?|az|ssh|sftp):/+", re.IGNORECASE)
_COPY = {
    "s3": "aws s3 cp --recursive URL FOLDER", "gs": "gcloud storage cp -r URL FOLDER",
    "gcs": "gcloud storage cp -r URL FOLDER", "ssh": "scp -r HOST:PATH FOLDER",
    "sftp": "scp -r HOST:PATH FOLDER",
}  # fmt: skip


def refuse_remote(path: Path) -> None:
    """Refuse the address of a file or store on another computer.

    Raises
    ------
    VolumeError
    """
    match = _REMOTE.match(path.as_posix())
    if match is None:
        return
    scheme = match["scheme"].lower()
    url = f"{match['scheme']}://{path.as_posix()[match.end() :]}"
    command = _COPY.get(scheme, "curl -LO URL")
    raise VolumeError(
        url, "is on another computer, and only local files are read",
        expected="the path of a file or of a Zarr folder",
        hint=f"Copy it first, for instance with `{command}`, and give the path of the copy. Of a "
        "large OME-Zarr copy the resolution level and the region that you need.",
    )  # fmt: skip


def refuse_known(path: Path) -> None:
    """Refuse a file that is recognised as a format which is not read.

    Raises
    ------
    VolumeError
        Names the format and a converter.
    """
    known = _recognised(path, head_of(path))
    if known is not None:
        raise VolumeError(str(path), f"is {known.name}, which is not read", hint=known.hint)


def _recognised(path: Path, head: bytes) -> UnreadableFormat | None:
    name = path.name.lower()
    for known in FORMATS:
        signature = known.signature
        signed = signature and head[known.offset : known.offset + len(signature)] == signature
        if name.endswith(known.suffixes) or (signed and not _is_minc(name, known)):
            return known
    return None


def _is_minc(name: str, known: UnreadableFormat) -> bool:
    """MINC 2 is HDF5, and read."""
    return known is _HDF5 and name.endswith(".mnc")


def head_of(path: Path) -> bytes:
    """The first bytes of a file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
