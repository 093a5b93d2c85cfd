"""Sample data of napari: the generated scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.io.layer_grid import METADATA_KEY, grid_of, layer_geometry

if TYPE_CHECKING:
    from napari_slmsam2.contributions.readers import LayerData
    from napari_slmsam2.sample import Sample


def scan() -> list[LayerData]:
    """The scan without labels.

    Returns
    -------
    list of (data, attributes, layer type)
    """
    from napari_slmsam2.sample import make_sample

    return [_scan(make_sample())]


def scan_with_seeds() -> list[LayerData]:
    """The scan, with each organ annotated on the slice where it is largest.

    Returns
    -------
    list of (data, attributes, layer type)
    """
    from napari_slmsam2.evaluate.protocol import choose_seeds, seed_volume
    from napari_slmsam2.sample import make_sample

    sample = make_sample()
    axis = sample.volume.axis
    chosen = {label: choose_seeds(sample.labels == label, axis, 1) for label in sample.names}
    seeds = seed_volume(sample.labels, chosen, axis)
    return [_scan(sample), (seeds, _attributes(sample, "sample labels"), "labels")]


def _scan(sample: Sample) -> LayerData:
    attributes = _attributes(sample, sample.volume.name)
    window = IntensityWindow.from_preset("soft_tissue")
    limits = {"contrast_limits": (window.low, window.high)}
    return sample.volume.data, attributes | limits, "image"


def _attributes(sample: Sample, name: str) -> dict[str, Any]:
    from napari_slmsam2.io.geometry import Geometry

    volume = sample.volume
    geometry = Geometry(volume.spacing, volume.unit, volume.affine)
    grid = grid_of(volume.shape, geometry, order="xyz")
    return {
        "name": name,
        "metadata": {METADATA_KEY: grid},
        **layer_geometry(geometry, 3, "xyz"),
    }
