"""Files of weights: strict reading, writing and conversion.

torch is imported only where tensors are touched, so that listing and downloading models stays
cheap.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import CheckpointError, ConfigError, OutputError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: SAM 2.1 weights for an SLM-SAM 2 network: the long-term attention is copied.
SAM2_TO_SLM_SAM2 = "sam2.1->slm-sam2"

_METADATA_KEY = "napari_slmsam2"
_KEYS_SHOWN = 4
_UNUSED = re.compile(
    r"image_encoder\.trunk\.blocks\.\d+\.fancy_fusion\."
    r"(cross_attn\.(in_proj_(weight|bias)|out_proj\.(weight|bias))|norm\.(weight|bias))"
)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as lower-case hexadecimal digits.

    Raises
    ------
    CheckpointError
        The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})") from error


def load_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU; no code in the file is run.

    Parameters
    ----------
    path : path-like
        ``.safetensors``, or a file of ``torch.save`` that holds a state dict or
        ``{"model": state dict, ...}``.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, not a checkpoint, or contains code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(str(path), "does not exist" if not path.exists() else "is not a file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".pkl":
        raise CheckpointError(
            str(path),
            "is a pickle of Python objects (SAMed-2 distributes its memory bank as one); reading "
            "it could run any program that is stored in it",
            expected="weights as .pt, .pth or .safetensors",
            hint="The memory bank is not needed: load the weights of the network (.pth) instead.",
        )
    return _tensors(path, _unpickle_safely(path))


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), "is not a safetensors file", found=str(error)) from error


def _unpickle_safely(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            str(path),
            "is not a checkpoint, or holds more than tensors; nothing in it was run",
            expected="a file that torch.load(weights_only=True) reads",
            hint="Only use weights from a source that you trust.",
        ) from error
    except Exception as error:  # damaged files break torch's reader in any way
        raise CheckpointError(
            str(path),
            "is not a checkpoint, or is damaged",
            expected="a .safetensors file or a state dict of torch.save",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        ) from error


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    from torch import Tensor

    state = content
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        state = content["model"]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            str(path), "holds no weights", expected="a state dict", found=type(state).__name__
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                str(path),
                "is not a state dict",
                expected="names with tensors",
                found=f"{key!r}: {type(value).__name__}",
            )
    return dict(state)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load weights into a module; missing and unexpected keys are errors.

    Parameters
    ----------
    module : nn.Module
    state : mapping of str to Tensor
    what : str
        Name of the file or model, for the message.

    Raises
    ------
    CheckpointError
        Keys are missing or unexpected, shapes differ, or a weight is not finite. The module is
        unchanged.
    """
    own = module.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} (expected {tuple(own[key].shape)}, found {tuple(state[key].shape)})"
            for key in sorted(own.keys() & state.keys())
            if own[key].shape != state[key].shape
        ],
    }
    found = "; ".join(
        f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in problems.items() if keys
    )
    if found:
        raise CheckpointError(
            what,
            "does not hold the weights of this network",
            expected=f"{len(own)} tensors of {type(module).__name__}",
            found=found,
            hint="Choose the model that these weights were made for, or use a conversion.",
        )
    broken = sorted(key for key, tensor in state.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointError(
            what,
            "holds weights that are not finite",
            found=f"NaN or infinity in {len(broken)} of {len(state)} tensors: {_first(broken)}",
            hint="The training that wrote the file diverged, or the file is damaged.",
        )
    module.load_state_dict(state, strict=True)


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = len(keys) - _KEYS_SHOWN
    return ", ".join(keys[:_KEYS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def without_unused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the parameters of SAMed-2 checkpoints that their network never uses.

    The published SAMed-2 code (Yan et al., arXiv:2507.03698) allocates a cross-attention
    ``fancy_fusion`` in every block of the image encoder, which its forward pass does not call.
    """
    return {key: value for key, value in state.items() if not _UNUSED.fullmatch(key)}


def convert_state(
    state: Mapping[str, Tensor], conversion: str, module: nn.Module
) -> dict[str, Tensor]:
    """Convert the weights of one kind of network into those of another.

    Parameters
    ----------
    state : mapping of str to Tensor
    conversion : {"sam2.1->slm-sam2"}
        The initialisation of SLM-SAM 2's training (Chen et al., arXiv:2505.01854): the short-term
        memory attention is a copy of the long-term one, the unused short-term time table is zero;
        the fuser or gate keeps the module's initial values.
    module : nn.Module
        The network that the weights are for.

    Returns
    -------
    dict of str to Tensor
        Input for `load_weights`, which checks every key.

    Raises
    ------
    ConfigError
        The conversion is not known.
    CheckpointError
        The weights are not those of SAM 2.1.
    """
    if conversion != SAM2_TO_SLM_SAM2:
        raise ConfigError(
            "conversion", "is not known", expected=SAM2_TO_SLM_SAM2, found=repr(conversion)
        )
    already = [key for key in state if key.startswith(("recent_memory_", "rec_maskmem_"))]
    if already:
        raise CheckpointError(
            f"conversion {conversion}",
            "the weights are not those of SAM 2.1",
            found=_first(already),
            hint="They are SLM-SAM 2's: load them without a conversion.",
        )
    converted = dict(state)
    for key, value in state.items():
        if key.startswith("memory_attention."):
            converted[f"recent_{key}"] = value.clone()
    for key, value in module.state_dict().items():
        if key == "rec_maskmem_tpos_enc":
            converted[key] = value.new_zeros(value.shape)
        elif key.startswith(("recent_memory_fuser.", "recent_memory_gate.")):
            converted[key] = value.clone()
    return converted


def save_weights(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write weights as safetensors, completely or not at all.

    Parameters
    ----------
    path : path-like
        Must end in ``.safetensors``.
    state : mapping of str to Tensor
        From `torch.nn.Module.state_dict`.
    metadata : mapping
        Values that JSON can hold; ``config`` (`ModelConfig.to_dict`) describes the network, the
        rest describes the origin of the weights.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(str(path), "has another suffix", expected=".safetensors")
    # Copies: safetensors refuses tensors that share memory.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    header = {"format": "pt", _METADATA_KEY: json.dumps(metadata)}

    def write(file: Path) -> None:
        file.touch()
        mode = file.stat().st_mode  # safetensors makes its files readable for their owner only
        save_file(tensors, file, metadata=header)
        file.chmod(mode)

    try:
        atomic_write(path, write, overwrite=True)
    except SafetensorError as error:
        raise OutputError(str(path), "cannot be written", found=str(error)) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata that `save_weights` wrote; empty for safetensors of other programs.

    Raises
    ------
    CheckpointError
        The file is missing or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # "pt" would load torch
            header = file.metadata() or {}
        noted = json.loads(header.get(_METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(str(path), "is not a safetensors file", found=str(error)) from error
    if not isinstance(noted, dict):
        raise CheckpointError(
            str(path), "has damaged metadata", expected="a JSON object", found=repr(noted)[:80]
        )
    return noted
