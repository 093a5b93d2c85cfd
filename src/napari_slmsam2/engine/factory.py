"""From a model's name to a segmenter that is ready to run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_slmsam2.core.config import PropagationConfig

if TYPE_CHECKING:
    from napari_slmsam2.core.segmenter import SliceSegmenter
    from napari_slmsam2.engine.download import Progress


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A segmenter and what a report should say of it.

    Attributes
    ----------
    segmenter : SliceSegmenter
    name : str
    sha256 : str or None
        Of the file of weights; None for a model without weights.
    device : str
    precision : str
    """

    segmenter: SliceSegmenter
    name: str
    sha256: str | None
    device: str
    precision: str


def make_segmenter(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    config: PropagationConfig | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ReadyModel:
    """Build the segmenter of a model.

    Parameters
    ----------
    model : str or path-like
        ``flow``, ``interpolation``, a network of the registry, or a file of weights.
    device : str
        See `choose_device`. Models without weights run on the CPU.
    config : PropagationConfig, optional
        Its precisions are used.
    folder, progress, should_stop : optional
        For the download, see `load_network`.

    Raises
    ------
    ConfigError, DownloadError, CheckpointError, DeviceError
        See `load_network` and `choose_device`.
    """
    if model in ("flow", "interpolation"):
        return ReadyModel(_classical(str(model)), str(model), None, "cpu", "float32")
    import torch

    from napari_slmsam2.engine.device import choose_device, choose_dtype, computing
    from napari_slmsam2.engine.models import load_network
    from napari_slmsam2.engine.segmenter import NetworkSegmenter
    from napari_slmsam2.engine.window_network import WindowNetwork
    from napari_slmsam2.engine.window_segmenter import WindowSegmenter

    config = config or PropagationConfig()
    torch_device = choose_device(device)
    loaded = load_network(
        model,
        image_size=config.image_size,
        folder=folder,
        progress=progress,
        should_stop=should_stop,
    )
    if isinstance(loaded.network, WindowNetwork):
        window_segmenter = WindowSegmenter(
            loaded.network, name=loaded.name, device=torch_device, dtype=torch.float32
        )
        return ReadyModel(
            window_segmenter, loaded.name, loaded.sha256, str(torch_device), "float32"
        )
    size = loaded.network.config.image_size
    dtype = choose_dtype(torch_device, config.precision, image_size=size)
    with computing(torch_device, torch.float32):
        segmenter = NetworkSegmenter(
            loaded.network,
            name=loaded.name,
            device=torch_device,
            dtype=dtype,
            memory_dtype=getattr(torch, config.memory_dtype),
        )
        loaded.network.pool_memory(config.memory_pooling)
    precision = str(dtype).removeprefix("torch.")
    return ReadyModel(segmenter, loaded.name, loaded.sha256, str(torch_device), precision)


def _classical(name: str) -> SliceSegmenter:
    if name == "flow":
        from napari_slmsam2.engine.flow import FlowSegmenter

        return FlowSegmenter()
    from napari_slmsam2.engine.interpolation_segmenter import InterpolationSegmenter

    return InterpolationSegmenter()
