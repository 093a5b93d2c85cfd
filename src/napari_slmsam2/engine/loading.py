"""Loading a model: from its name, or a file of weights, to a segmenter that is ready to run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_slmsam2.core.config import (
    CompactConfig,
    ModelConfig,
    PropagationConfig,
    sam2_config,
    slm_sam2_config,
)
from napari_slmsam2.core.errors import CheckpointError, ConfigError
from napari_slmsam2.engine.weights.checkpoints import (
    convert_state,
    file_sha256,
    load_state,
    load_weights,
    read_metadata,
    without_unused,
)
from napari_slmsam2.engine.weights.registry import get_model, is_weights_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_slmsam2.core.segmenter import SliceSegmenter
    from napari_slmsam2.engine.compact.network import CompactNetwork
    from napari_slmsam2.engine.propagation.embedding_files import EmbeddingFiles
    from napari_slmsam2.engine.sam2.input_size import ChosenSize
    from napari_slmsam2.engine.sam2.network import SliceNetwork
    from napari_slmsam2.engine.weights.download import Progress

_TRUNKS = ("tiny", "small", "base_plus", "large")


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A segmenter, and what reports state about it.

    Attributes
    ----------
    segmenter : SliceSegmenter
    name : str
    sha256 : str or None
        Of the file of weights; None for a model without weights.
    chosen_size : ChosenSize or None
        Where the network has a smaller input than its own, because the device is slow.
    """

    segmenter: SliceSegmenter
    name: str
    sha256: str | None
    chosen_size: ChosenSize | None = None

    @property
    def device(self) -> str:
        """Where the model computes now: exhausted memory moves it to the CPU."""
        return str(getattr(self.segmenter, "device", "cpu"))

    @property
    def precision(self) -> str:
        """In which the model computes now, such as ``float32``."""
        return str(getattr(self.segmenter, "dtype", "float32")).removeprefix("torch.")

    def fill(self, config: PropagationConfig) -> PropagationConfig:
        """The settings of a run with this model, with the input size that was chosen for it."""
        if self.chosen_size is None or config.image_size is not None:
            return config
        return config.replace(image_size=self.chosen_size.size)

    @property
    def captured_calls(self) -> dict[str, int]:
        """What of the model ran as CUDA graphs so far, see `NetworkSegmenter.captured_calls`."""
        count = getattr(self.segmenter, "captured_calls", None)
        return {} if count is None else dict(count())


_kept: dict[object, ReadyModel] | None = None
"""The model that was built last, by what it was built from; None where none is kept."""


def keep_last_model() -> None:
    """Let `make_segmenter` return the model that it built last, where the same is asked for.

    For processes that run many jobs: each loads its model once.
    """
    global _kept
    _kept = {} if _kept is None else _kept


def forget_last_model() -> None:
    """Build the next model again: the last one has moved to the CPU, for instance."""
    if _kept is not None:
        _kept.clear()


def make_segmenter(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    config: PropagationConfig | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    fit_cpu: bool = False,
) -> ReadyModel:
    """Build the segmenter of a model, or return the last one, see `keep_last_model`.

    Parameters
    ----------
    model : str or path-like
        ``flow``, ``interpolation``, a network of the registry, or a file of weights.
    device : str
        See `choose_device`. Models without weights run on the CPU.
    config : PropagationConfig, optional
        Its precisions, input size and disk space for embeddings are used.
    folder, progress, should_stop : optional
        For the download, see `load_network`.
    fit_cpu : bool
        Whether SAM 2 may get a smaller input than its own on a slow CPU, where the settings leave
        it open; see `napari_slmsam2.engine.sam2.input_size`. Never in a process that runs many
        jobs: all of them are to be treated alike.

    Raises
    ------
    ConfigError, DownloadError, CheckpointError, DeviceError
        See `load_network` and `choose_device`.
    """
    config = config or PropagationConfig()
    if _kept is None:
        return _build_segmenter(model, device, config, folder, progress, should_stop, fit_cpu)
    file = Path(model) if is_weights_file(model) else get_model(str(model), folder).path
    state = file.stat() if file is not None and file.is_file() else None
    changed = None if state is None else (state.st_size, state.st_mtime_ns)
    key = (str(model), device, config, str(folder), changed)
    if key not in _kept:
        _kept.clear()  # two do not have to fit into the memory
        _kept[key] = _build_segmenter(model, device, config, folder, progress, should_stop)
    return _kept[key]


def _build_segmenter(
    model: str | os.PathLike[str],
    device: str,
    config: PropagationConfig,
    folder: str | os.PathLike[str] | None,
    progress: Progress | None,
    should_stop: Callable[[], bool] | None,
    fit_cpu: bool = False,
) -> ReadyModel:
    if model in ("flow", "interpolation"):
        return ReadyModel(_classical(str(model)), str(model), None)
    import torch

    from napari_slmsam2.engine.compact.network import CompactNetwork
    from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
    from napari_slmsam2.engine.device import choose_device

    torch_device = choose_device(device)
    loaded = load_network(
        model,
        image_size=config.image_size,
        folder=folder,
        progress=progress,
        should_stop=should_stop,
    )
    if isinstance(loaded.network, CompactNetwork):
        window_segmenter = CompactSegmenter(
            loaded.network, name=loaded.name, device=torch_device, dtype=torch.float32
        )
        return ReadyModel(window_segmenter, loaded.name, loaded.sha256)
    return _sam2(loaded, loaded.network, torch_device, config, fit_cpu)


def _sam2(
    loaded: LoadedNetwork,
    network: SliceNetwork,
    device: torch.device,
    config: PropagationConfig,
    fit_cpu: bool,
) -> ReadyModel:
    import torch

    from napari_slmsam2.engine.device import choose_dtype, computing
    from napari_slmsam2.engine.sam2.input_size import fit_to_cpu
    from napari_slmsam2.engine.sam2.precision import cast_weights
    from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

    chosen = None
    if fit_cpu and config.image_size is None and device.type == "cpu":
        network, chosen = fit_to_cpu(network, config.precision)
    dtype = choose_dtype(device, config.precision, image_size=network.config.image_size)
    cast_weights(network, dtype)
    with computing(device, torch.float32):
        segmenter = NetworkSegmenter(
            network,
            name=loaded.name,
            device=device,
            dtype=dtype,
            memory_dtype=getattr(torch, config.memory_dtype),
            memory=config.memory,
            files=_embedding_files(network, loaded.sha256, config.embedding_disk),
        )
        network.pool_memory(config.memory_pooling)
    with computing(device, dtype):
        network.sam_prompt_encoder.store_constants()
    return ReadyModel(segmenter, loaded.name, loaded.sha256, chosen)


def _embedding_files(network: SliceNetwork, sha256: str, gibibytes: int) -> EmbeddingFiles | None:
    """Where the embeddings of a network are kept on the disk; None where they are not."""
    if not gibibytes:
        return None
    import torch

    import napari_slmsam2
    from napari_slmsam2.engine.propagation.embedding_files import EmbeddingFiles, embeddings_folder

    encoder = json.dumps(
        {
            "weights": sha256,
            "config": network.config.to_dict(),
            "versions": [napari_slmsam2.__version__, torch.__version__],
        }
    )
    return EmbeddingFiles(embeddings_folder(), gibibytes * 2**30, encoder)


def _classical(name: str) -> SliceSegmenter:
    if name == "flow":
        from napari_slmsam2.engine.classical.flow import FlowSegmenter

        return FlowSegmenter()
    from napari_slmsam2.engine.classical.interpolation import InterpolationSegmenter

    return InterpolationSegmenter()


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network with its weights, and where they come from.

    Attributes
    ----------
    network : SliceNetwork or CompactNetwork
        On the CPU; ``network.config`` describes it.
    name : str
        Of the model, or of the file.
    path : Path
    sha256 : str
        Of the file.
    """

    network: SliceNetwork | CompactNetwork
    name: str
    path: Path
    sha256: str


def load_network(
    model: str | os.PathLike[str],
    *,
    config: ModelConfig | CompactConfig | None = None,
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
        A name of `napari_slmsam2.engine.weights.registry.list_models`, or a file of weights
        (recognised by its suffix or by a folder in front of it).
    config : ModelConfig, optional
        Of a file that does not state it. Default: the safetensors metadata, else the published
        SAM 2.1 or SLM-SAM 2 network that the weights look like.
    conversion : str, optional
        Of the weights of a file, see `convert_state`; needs ``config``.
    image_size : int, optional
        Side of the network's input in pixels. Default: the model's own.
    folder, progress, should_stop : optional
        See `napari_slmsam2.engine.weights.download.download_weights`.

    Raises
    ------
    ConfigError
        The name is not known, or the model has no network.
    DownloadError
        The weights could not be downloaded.
    CheckpointError
        The file is missing, is no checkpoint, or does not fit the network.
    """
    if is_weights_file(model):
        path = Path(model)
        name, sha256 = path.name, file_sha256(path)
        state = without_unused(load_state(path))
        config = config or _config_of(path, state)
    else:
        card = get_model(str(model), folder)
        if config is not None or conversion is not None:
            raise ConfigError(f"model {card.name}", "has its own configuration and conversion")
        name = card.name
        if card.weights is not None:
            from napari_slmsam2.engine.weights.download import download_weights

            path = download_weights(card, folder, progress=progress, should_stop=should_stop)
            sha256 = card.weights.sha256
        elif card.path is not None:
            path, sha256 = card.path, file_sha256(card.path)
        else:
            raise ConfigError(f"model {card.name}", "is not a network")
        state = without_unused(load_state(path))
        config, conversion = card.config or _config_of(path, state), card.conversion
    if image_size is not None and isinstance(config, ModelConfig):
        config = config.replace(image_size=image_size)
    network = _build(config)
    if conversion is not None:
        state = convert_state(state, conversion, network)
    if isinstance(config, CompactConfig):
        from napari_slmsam2.engine.compact.presence_gru import with_all_features

        state = with_all_features(state, "ends.")
    load_weights(network, state, what=str(path))
    return LoadedNetwork(network, name, path, sha256)


def _build(config: ModelConfig | CompactConfig) -> SliceNetwork | CompactNetwork:
    import torch

    if isinstance(config, CompactConfig):
        from napari_slmsam2.engine.compact.network import CompactNetwork

        return CompactNetwork(config)
    from napari_slmsam2.engine.sam2.network import SliceNetwork

    # A conversion keeps some initial values: the same model must be the same every time.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SliceNetwork(config)


def _config_of(path: Path, state: Mapping[str, Tensor]) -> ModelConfig | CompactConfig:
    if path.suffix == ".safetensors":
        noted = read_metadata(path).get("config")
        if noted is not None:
            is_window = noted.get("architecture") == "window"
            return (CompactConfig if is_window else ModelConfig).from_dict(noted)
    return published_config(state, what=str(path))


def published_config(state: Mapping[str, Tensor], *, what: str) -> ModelConfig:
    """The published network that a state dict belongs to: its trunk, SAM version and adapters.

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
            return (slm_sam2_config if is_slm else sam2_config)(
                trunk,
                sam_version="2.1" if "no_obj_embed_spatial" in state else "2.0",
                **_adapter_of(state),
            )
    raise CheckpointError(
        what,
        "holds the weights of a network that is not known",
        expected="a SAM 2.1 or SLM-SAM 2 checkpoint, or safetensors with a config",
        found=f"{len(state)} tensors, {len(blocks)} trunk blocks",
    )


def _adapter_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The slice adapter of a state dict, as settings of `ModelConfig`."""
    block = "image_encoder.trunk.blocks.0.adapter."
    conv = state.get(f"{block}conv.weight")
    if conv is not None and conv.ndim == 5:
        form = "temporal" if tuple(conv.shape[2:]) == (3, 3, 3) else "temporal-slices"
        return {"adapter": form, "adapter_dim": conv.shape[0]}
    return {"adapter": "dilated"} if f"{block}down.weight" in state else {}
