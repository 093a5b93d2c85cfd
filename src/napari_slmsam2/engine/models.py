"""From the name of a model, or a file of weights, to a network that is ready to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_slmsam2.core.config import ModelConfig, WindowConfig, sam2_config, slm_sam2_config
from napari_slmsam2.core.errors import CheckpointError, ConfigError
from napari_slmsam2.engine.checkpoints import (
    convert_state,
    file_sha256,
    load_state,
    load_weights,
    read_metadata,
)
from napari_slmsam2.engine.download import Progress, fetch_weights
from napari_slmsam2.engine.registry import get_model

if TYPE_CHECKING:
    from torch import Tensor

    from napari_slmsam2.engine.network import SliceNetwork
    from napari_slmsam2.engine.window_network import WindowNetwork

_SUFFIXES = (".pt", ".pth", ".safetensors")
_TRUNKS = ("tiny", "small", "base_plus", "large")


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network with its weights, and where they come from.

    Attributes
    ----------
    network : SliceNetwork or WindowNetwork
        On the CPU; ``network.config`` describes it.
    name : str
        Of the model, or of the file.
    path : Path
    sha256 : str
        Of the file.
    """

    network: SliceNetwork | WindowNetwork
    name: str
    path: Path
    sha256: str


def load_network(
    model: str | os.PathLike[str],
    *,
    config: ModelConfig | WindowConfig | None = None,
    conversion: str | None = None,
    image_size: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LoadedNetwork:
    """Build a network and fill it with its weights, strictly.

    Parameters
    ----------
    model : str or path-like
        A name of `napari_slmsam2.engine.registry.list_models`, or a file of weights
        (told by its suffix or by a folder in front of it).
    config : ModelConfig, optional
        Of a file that does not tell it. Default: the safetensors metadata, else the published
        SAM 2.1 or SLM-SAM 2 network that the weights look like.
    conversion : str, optional
        Of the weights of a file, see `convert_state`; needs ``config``.
    image_size : int, optional
        Side of the network's input in pixels. Default: the model's own.
    folder, progress, should_stop : optional
        See `napari_slmsam2.engine.download.fetch_weights`.

    Raises
    ------
    ConfigError
        The name is not known, or the model has no network.
    DownloadError
        The weights could not be downloaded.
    CheckpointError
        The file is not there, is no checkpoint, or does not fit the network.
    """
    if is_weights_file(model):
        path = Path(model)
        name, sha256 = path.name, file_sha256(path)
        state = load_state(path)
        config = config or _config_of(path, state)
    else:
        card = get_model(str(model), folder)
        if config is not None or conversion is not None:
            raise ConfigError(f"model {card.name}", "has its own configuration and conversion")
        name = card.name
        if card.weights is not None:
            path = fetch_weights(card, folder, progress=progress, should_stop=should_stop)
            sha256 = card.weights.sha256
        elif card.path is not None:
            path, sha256 = card.path, file_sha256(card.path)
        else:
            raise ConfigError(f"model {card.name}", "is not a network")
        state = load_state(path)
        config, conversion = card.config or _config_of(path, state), card.conversion
    if image_size is not None and isinstance(config, ModelConfig):
        config = config.replace(image_size=image_size)
    network = _build(config)
    if conversion is not None:
        state = convert_state(state, conversion, network)
    load_weights(network, state, what=str(path))
    return LoadedNetwork(network, name, path, sha256)


def is_weights_file(model: str | os.PathLike[str]) -> bool:
    """Whether a model is asked for by its file of weights instead of its name."""
    return not isinstance(model, str) or model.endswith(_SUFFIXES) or os.sep in model


def _build(config: ModelConfig | WindowConfig) -> SliceNetwork | WindowNetwork:
    import torch

    if isinstance(config, WindowConfig):
        from napari_slmsam2.engine.window_network import WindowNetwork

        return WindowNetwork(config)
    from napari_slmsam2.engine.network import SliceNetwork

    # A conversion keeps some initial values: the same model must be the same every time.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SliceNetwork(config)


def _config_of(path: Path, state: Mapping[str, Tensor]) -> ModelConfig | WindowConfig:
    if path.suffix == ".safetensors":
        noted = read_metadata(path).get("config")
        if noted is not None:
            is_window = noted.get("architecture") == "window"
            return (WindowConfig if is_window else ModelConfig).from_dict(noted)
    return published_config(state, what=str(path))


def published_config(state: Mapping[str, Tensor], *, what: str) -> ModelConfig:
    """The published network that a state dict belongs to, told by its trunk.

    Parameters
    ----------
    state : mapping of str to Tensor
    what : str
        The file, for the message.

    Raises
    ------
    CheckpointError
        No published network has such a trunk.
    """
    stem = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")}
    for trunk in _TRUNKS:
        known = sam2_config(trunk)
        if stem is not None and (stem.shape[0], len(blocks)) == (
            known.embed_dim,
            sum(known.stages),
        ):
            is_slm = any(key.startswith("recent_memory_attention.") for key in state)
            return slm_sam2_config(trunk) if is_slm else known
    raise CheckpointError(
        what,
        "holds the weights of a network that is not known",
        expected="a SAM 2.1 or SLM-SAM 2 checkpoint, or safetensors with a config",
        found=f"{len(state)} tensors, {len(blocks)} trunk blocks",
    )
