"""NIfTI, MGH, MINC and the other spatial images that nibabel reads."""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener

from napari_slmsam2.core.errors import OutputError, SlmSam2Warning, VolumeError
from napari_slmsam2.io.geometry import Geometry, TimeAxis, name_axes
from napari_slmsam2.io.raw import (
    LABELS_MARK,
    MAX_GZIP_RATIO,
    ArrayLike,
    RawImage,
    ScaledArray,
    check_size,
    raw_array,
    read_stream,
)
from napari_slmsam2.io.selection import Selection, choose_image
from napari_slmsam2.io.units import IN_MM, IN_SECONDS, NO_UNIT

_UNITS = {1: "m", 2: "mm", 3: "um"}
_UNIT_CODES = {unit: code for code, unit in _UNITS.items()}
_TIME_UNITS = {8: "s", 16: "ms", 24: "us"}
_TIME_CODES = {unit: code for code, unit in _TIME_UNITS.items()}
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


_INTENT_LABEL = 1002
_TAG_CMDLINE = 3
_MGH_TAGS = 2**16
"""Bytes at the end of an MGH file in which a mark of labels is searched."""

_SAME_PLACE = 0.05
"""Voxel sizes by which two transforms of one header may differ."""


def read(path: Path, selection: Selection) -> RawImage:
    """Open an image; uncompressed data stay in the file.

    Warns
    -----
    SlmSam2Warning
        The header contradicts itself: sform and qform, or the affine and the voxel size.
    """
    choose_image(str(path), selection, ("",))
    image: Any = nib.load(path)
    if not hasattr(image, "header") or not hasattr(image, "affine"):
        raise VolumeError(str(path), "is not an image", found=type(image).__name__)
    data = _data(image, path)
    axes = _axes(image, len(data.shape))
    return RawImage(
        data=data,
        axes=axes,
        format=_FORMATS.get(type(image).__name__, type(image).__name__.removesuffix("Image")),
        geometry=_geometry(image, axes, path),
        template=image.header.copy(),
        stored_dtype=np.dtype(image.get_data_dtype()),
        holds_labels=_holds_labels(image, path),
    )


def _holds_labels(image: Any, path: Path) -> bool:
    """Whether the intent code of NIfTI, or the tag that `_mark_mgh` appends, specifies labels."""
    header = image.header
    if isinstance(header, nib.Nifti1Header):
        return int(header["intent_code"]) == _INTENT_LABEL
    if not isinstance(image, nib.MGHImage):
        return False
    end = header.get_footer_offset() + header._ftrdtype.itemsize
    with ImageOpener(str(path)) as stream:
        stream.seek(end)
        return LABELS_MARK.encode() in stream.read(_MGH_TAGS)


def _axes(image: Any, n_dims: int) -> str:
    """The letters of the dimensions; MINC names them, all others begin with x, y, z."""
    if not type(image).__name__.startswith("Minc"):
        return "xyztc??"[:n_dims]
    names = list(image.dataobj.minc_file._dim_names)
    roles = ["s" if name.endswith("space") else "t" if name == "time" else "?" for name in names]
    return name_axes("".join(roles), [name.removesuffix("space") for name in names], "zyx")


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
            stored, _ = read_stream(stream, shape, dtype, str(file))
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if (slope, intercept) == (1.0, 0.0) or dtype.names:
        return stored
    return ScaledArray(stored, slope, intercept)


def _geometry(image: Any, axes: str, path: Path) -> Geometry:
    header = image.header
    affine = None
    unit = "mm"
    if isinstance(header, nib.Nifti1Header):
        unit = _UNITS.get(int(header["xyzt_units"]) & 7, NO_UNIT)
        has_affine = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
        _report_two_places(header, image.shape, path)
    else:
        # Analyze has no orientation; nibabel would invent one.
        has_affine = not isinstance(header, nib.AnalyzeHeader)
    if has_affine and image.affine is not None:
        affine = np.array(image.affine, np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
            affine = None
    zooms = [float(abs(z)) for z in header.get_zooms()]
    first = min(i for i, axis in enumerate(axes) if axis in "xyz")
    spacing = _spacing(zooms[first : first + 3], affine, path)
    return Geometry(spacing, unit, affine, time=_time(image, axes, zooms))


def _time(image: Any, axes: str, zooms: list[float]) -> TimeAxis | None:
    """The time axis that a header specifies."""
    place = axes.find("t")
    if not 0 <= place < len(zooms):
        return None
    header, unit, start = image.header, "s", 0.0
    if isinstance(header, nib.Nifti1Header):
        unit = _TIME_UNITS.get(int(header["xyzt_units"]) & 0x38, NO_UNIT)
        start = float(header["toffset"])
    elif isinstance(image, nib.MGHImage):
        unit = "ms"
    return TimeAxis.usable(zooms[place], unit, start)


def _report_two_places(header: Any, shape: tuple[int, ...], path: Path) -> None:
    """Warn where sform and qform place the voxels differently."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if min(codes) <= 0:
        return
    sform, qform = header.get_sform(), header.get_qform()
    sizes = np.sqrt((sform[:3, :3] ** 2).sum(axis=0))
    if not np.isfinite([sform, qform]).all() or sizes.min() <= 0:
        return
    ends = [(0, max(n - 1, 1)) for n in (*shape[:3], 1, 1)[:3]]
    corners = np.array(np.meshgrid(*ends, [1.0])).reshape(4, -1)
    shift = ((sform - qform) @ corners)[:3]
    distance = float(np.sqrt((shift**2).sum(axis=0)).max())
    if distance > _SAME_PLACE * sizes.min():
        warnings.warn(
            f"{path.name}: its sform (code {codes[0]}) and qform (code {codes[1]}) place the "
            f"voxels up to {distance:.3g} apart. The sform is used; labels get both.",
            SlmSam2Warning,
            stacklevel=4,
        )


def _spacing(
    zooms: list[float], affine: npt.NDArray[np.float64] | None, path: Path
) -> tuple[float, float, float]:
    """The header's voxel size, unless it contradicts the affine, which viewers follow."""
    n = len(zooms)
    x, y, z = (*zooms, 1.0, 1.0)[:3]
    if affine is not None:
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if not np.allclose(sizes[:n], zooms, rtol=1e-3, atol=0):
            x, y, z = sizes.tolist()
        if not np.allclose(sizes[:n], zooms, rtol=_SAME_PLACE, atol=0):
            warnings.warn(
                f"{path.name}: its header contradicts itself: the voxel size is "
                f"{_listed(zooms)}, but {_listed([x, y, z])} in the affine, which is used.",
                SlmSam2Warning,
                stacklevel=4,
            )
    x, y, z = (s if np.isfinite(s) and s > 0 else 1.0 for s in (x, y, z))
    return x, y, z


def _listed(sizes: list[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def write(
    path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any, lead: str = ""
) -> None:
    """Write labels with the header of the image where that fits, else with its geometry.

    Parameters
    ----------
    path : Path
    labels : ndarray of unsigned int, shape (I, J, K) and the axes of ``lead``
    geometry : Geometry
    template : header or None
        Of an image of this module.
    lead : {"", "t", "c", "tc"}
        The axes of ``labels`` beside the three of space.
    """
    if lead == "c":
        labels = labels[:, :, :, np.newaxis]  # the fourth dimension of NIfTI is time
    if path.suffix.lower() in (".mgh", ".mgz"):
        image = _mgh(path, labels, geometry, template)
    elif isinstance(template, nib.Nifti1Header):
        image = _nifti_like(path, labels, template)
    else:
        image = _new_nifti(path, labels, geometry)
    image.to_filename(path)
    if path.suffix.lower() in (".mgh", ".mgz"):
        _mark_mgh(path)


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
    header.set_intent("label")
    header["cal_min"] = header["cal_max"] = 0
    # Without an affine nibabel leaves the transforms of the header alone.
    image = _nifti_class(path, isinstance(template, nib.Nifti2Header))(labels, None, header)
    image.header.set_data_shape(labels.shape)
    return image


def _new_nifti(path: Path, labels: npt.NDArray[Any], geometry: Geometry) -> Any:
    # NIfTI has three units; others are converted to the nearest of them.
    unit, known, factor = geometry.unit, geometry.unit, 1.0
    if unit in IN_MM and unit not in _UNIT_CODES:
        known = "um" if IN_MM[unit] < IN_MM["um"] else "mm" if IN_MM[unit] < IN_MM["m"] else "m"
        factor = IN_MM[unit] / IN_MM[known]
    image = _nifti_class(path, max(labels.shape) > 32767)(labels, None, dtype=labels.dtype)
    header = image.header
    header.set_data_dtype(labels.dtype)
    header.set_intent("label")
    header["xyzt_units"] = _UNIT_CODES[known] if unit in IN_MM else 0
    zooms = [s * factor for s in geometry.spacing]
    header.set_zooms([*zooms, *_set_time(header, geometry, labels.ndim)])
    if geometry.affine is not None:
        affine = geometry.affine.copy()
        affine[:3] *= factor
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
    return image


def _mark_mgh(path: Path) -> None:
    """Append a tag of FreeSurfer for a line of provenance, which notes that these are labels."""
    text = LABELS_MARK.encode() + b"\0"
    tag = struct.pack(">iq", _TAG_CMDLINE, len(text)) + text
    opener: Any = gzip.open if path.suffix.lower() == ".mgz" else open
    with opener(path, "ab") as file:  # a second member of the gzip file continues the first one
        file.write(tag)


def _set_time(header: Any, geometry: Geometry, n_dims: int) -> list[float]:
    """Set unit and start of a time axis; the voxel sizes of the dimensions beyond three."""
    time = geometry.time or TimeAxis()
    if n_dims < 4:
        return []
    unit, factor = time.unit, 1.0
    if unit in IN_SECONDS and unit not in _TIME_CODES:
        unit, factor = "s", IN_SECONDS[unit]
    header["xyzt_units"] = int(header["xyzt_units"]) | _TIME_CODES.get(unit, 0)
    header["toffset"] = time.start * factor
    return [time.step * factor, 1.0][: n_dims - 3]


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
        header["dims"] = (*labels.shape, 1)[:4]
        header.set_data_dtype(dtype)
        return mgh(labels.astype(dtype), header.get_affine(), header)
    factor = IN_MM.get(geometry.unit, 1.0)
    affine = geometry.affine
    if affine is None:
        affine = np.diag([*geometry.spacing, 1.0])
        affine[:3, 3] = geometry.origin or 0.0
    affine = affine.copy()
    affine[:3] *= factor
    image = mgh(labels.astype(dtype), affine)
    if labels.ndim == 4 and geometry.time is not None:
        step = geometry.time.step * 1000 * IN_SECONDS.get(geometry.time.unit, 1e-3)
        image.header.set_zooms([*image.header.get_zooms()[:3], step])
    return image
