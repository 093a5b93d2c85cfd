"""NIfTI, MGH, MINC and what else nibabel reads as a spatial image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener

from napari_slmsam2.core.errors import OutputError, VolumeError
from napari_slmsam2.io.raw import (
    MAX_GZIP_RATIO,
    ArrayLike,
    Geometry,
    RawImage,
    ScaledArray,
    check_size,
    raw_array,
    read_stream,
)
from napari_slmsam2.io.units import IN_MM, NO_UNIT

_UNITS = {1: "m", 2: "mm", 3: "um"}
_UNIT_CODES = {unit: code for code, unit in _UNITS.items()}
_FORMATS = {
    "Nifti1Image": "NIfTI-1",
    "Nifti1Pair": "NIfTI-1 pair",
    "Nifti2Image": "NIfTI-2",
    "Nifti2Pair": "NIfTI-2 pair",
    "MGHImage": "MGH",
    "Minc1Image": "MINC 1",
    "Minc2Image": "MINC 2",
}


class _Proxied:
    """An array proxy of nibabel that does its own scaling, given the dtype that it yields."""

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy
        self.shape = tuple(proxy.shape)
        self.dtype = np.dtype(np.float64)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return np.asarray(self.proxy[key])


def read(path: Path) -> RawImage:
    """Open an image; uncompressed data stay in the file."""
    image: Any = nib.load(path)
    if not hasattr(image, "header") or not hasattr(image, "affine"):
        raise VolumeError(str(path), "is not an image", found=type(image).__name__)
    data = _data(image, path)
    roles = "ssstc??"[: len(data.shape)]
    if type(image).__name__.startswith("Minc"):
        roles = ("t" * (len(data.shape) - 3) + "sss")[: len(data.shape)]  # MINC keeps time first.
    return RawImage(
        data=data,
        roles=roles,
        order="xyz",
        format=_FORMATS.get(type(image).__name__, type(image).__name__.removesuffix("Image")),
        geometry=_geometry(image, roles),
        template=image.header.copy(),
        stored_dtype=np.dtype(image.get_data_dtype()),
    )


def _data(image: Any, path: Path) -> ArrayLike:
    """The voxels: lazy where the file is not compressed, else in the stored dtype."""
    proxy = image.dataobj
    file = Path(getattr(image.file_map.get("image"), "filename", None) or path)
    compressed = file.suffix.lower() in (".gz", ".bz2", ".zst", ".mgz")
    if type(proxy) is not ArrayProxy:
        return _Proxied(proxy)
    shape = tuple(int(n) for n in proxy.shape)
    dtype, offset = np.dtype(proxy.dtype), int(proxy.offset)
    needed = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    stored: ArrayLike
    if not compressed:
        stored = raw_array(file, shape, dtype, offset, proxy.order)
    else:
        if file.suffix.lower() in (".gz", ".mgz"):
            check_size(file, needed, compressed=True, ratio=MAX_GZIP_RATIO)
        with ImageOpener(str(file)) as stream:
            stream.seek(offset)
            stored = read_stream(stream, shape, dtype, str(file))
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if (slope, intercept) == (1.0, 0.0) or dtype.names:
        return stored
    return ScaledArray(stored, slope, intercept)


def _geometry(image: Any, roles: str) -> Geometry:
    header = image.header
    affine = None
    unit = "mm"
    if isinstance(header, nib.Nifti1Header):
        unit = _UNITS.get(int(header["xyzt_units"]) & 7, NO_UNIT)
        has_affine = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    else:
        # Analyze has no orientation; nibabel would make one up.
        has_affine = not isinstance(header, nib.AnalyzeHeader)
    if has_affine and image.affine is not None:
        affine = np.array(image.affine, np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
            affine = None
    zooms = [float(abs(z)) for z in header.get_zooms()]
    zooms = (zooms[-3:] if roles.endswith("sss") else zooms[:3]) + [1.0] * (3 - len(zooms))
    return Geometry(_spacing(zooms, affine), unit, affine)


def _spacing(
    zooms: list[float], affine: npt.NDArray[np.float64] | None
) -> tuple[float, float, float]:
    """The header's voxel size, unless the affine that viewers follow says otherwise."""
    x, y, z = zooms
    if affine is not None:
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if not np.allclose(sizes, zooms, rtol=1e-3, atol=0):
            x, y, z = sizes.tolist()
    x, y, z = (s if np.isfinite(s) and s > 0 else 1.0 for s in (x, y, z))
    return x, y, z


def write(path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any) -> None:
    """Write labels with the header of the image where that fits, else with its geometry.

    Parameters
    ----------
    path : Path
    labels : ndarray of uint8, uint16 or uint32, shape (I, J, K)
    geometry : Geometry
    template : header or None
        Of an image of this module.
    """
    if path.suffix.lower() in (".mgh", ".mgz"):
        image = _mgh(path, labels, geometry, template)
    elif isinstance(template, nib.Nifti1Header):
        image = _nifti_like(path, labels, template)
    else:
        image = _new_nifti(path, labels, geometry)
    image.to_filename(path)


def _nifti_class(path: Path, version_2: bool) -> Any:
    pair = path.name.lower().removesuffix(".gz").endswith((".img", ".hdr"))
    if version_2:
        return nib.Nifti2Pair if pair else nib.Nifti2Image
    return nib.Nifti1Pair if pair else nib.Nifti1Image


def _nifti_like(path: Path, labels: npt.NDArray[Any], template: Any) -> Any:
    """Labels under the image's own header: same sform, qform, codes, pixdim and units."""
    header = template.copy()
    header.extensions.clear()
    header.set_data_dtype(labels.dtype)
    header.set_data_offset(0)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    # Without an affine nibabel leaves the transforms of the header alone.
    image = _nifti_class(path, isinstance(template, nib.Nifti2Header))(labels, None, header)
    image.header.set_data_shape(labels.shape)
    return image


def _new_nifti(path: Path, labels: npt.NDArray[Any], geometry: Geometry) -> Any:
    # NIfTI knows three units; others are converted.
    unit = geometry.unit
    known = unit if unit in _UNIT_CODES else {"nm": "um", "pm": "um"}.get(unit, "mm")
    factor = IN_MM[unit] / IN_MM[known] if unit in IN_MM else 1.0
    image = _nifti_class(path, max(labels.shape) > 32767)(labels, None)
    header = image.header
    header.set_data_dtype(labels.dtype)
    header["xyzt_units"] = _UNIT_CODES[known] if unit in IN_MM else 0
    header.set_zooms([s * factor for s in geometry.spacing])
    if geometry.affine is not None:
        affine = geometry.affine.copy()
        affine[:3] *= factor
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
    return image


def _mgh(path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any) -> Any:
    highest = int(labels.max())
    if highest > np.iinfo(np.int32).max:
        raise OutputError(
            str(path),
            "cannot hold these labels",
            expected="labels below 2**31 in MGH",
            found=highest,
            hint="Write .nii.gz.",
        )
    mgh: Any = nib.MGHImage
    dtype = np.uint8 if highest < 2**8 else np.int16 if highest < 2**15 else np.int32
    if isinstance(template, mgh.header_class):
        header: Any = template.copy()
        # set_data_shape would reset the voxel size.
        header["dims"] = (*labels.shape, 1)
        header.set_data_dtype(dtype)
        return mgh(labels.astype(dtype), header.get_affine(), header)
    factor = IN_MM.get(geometry.unit, 1.0)
    affine = np.diag([*geometry.spacing, 1.0]) if geometry.affine is None else geometry.affine
    affine = affine.copy()
    affine[:3] *= factor
    return mgh(labels.astype(dtype), affine)
