"""Which device computes, in which precision, and what to do when its memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from napari_slmsam2.core.errors import DeviceError, DeviceMemoryError

#: From this input size on, bfloat16 pays on a CPU (benchmarks/README.md).
_LARGE_INPUT = 256

_OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on.

    Parameters
    ----------
    name : str
        ``auto`` (CUDA, else Apple MPS, else CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    DeviceError
        The device is not known or not found.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            "device", "is not known", expected="auto, cpu, mps, cuda or cuda:N", found=repr(name)
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                "device", "not found", expected=_available(), found=name, hint="Use auto."
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            "device", "not found", expected=_available(), found=name, hint="Use auto."
        )
    elif device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError("device", "is not supported", expected=_available(), found=name)
    return device


def _available() -> str:
    names = ["cpu"]
    if torch.backends.mps.is_available():
        names.append("mps")
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return " | ".join(names)


def choose_dtype(
    device: torch.device, precision: str = "auto", *, image_size: int = 1024
) -> torch.dtype:
    """The dtype of the computation on a device.

    Parameters
    ----------
    device : torch.device
    precision : {"auto", "float32", "bfloat16"}
        ``auto`` takes bfloat16 where the hardware multiplies it faster than float32: CUDA from
        Ampere on, CPUs with AVX-512 BF16 or AMX. On a CPU that needs large matrices: networks
        with a small input stay in float32.
    image_size : int
        Side of the network's input in pixels.
    """
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        has_units = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        fast = bool(has_units) and image_size >= _LARGE_INPUT
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


@contextmanager
def computing(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inference mode, autocast and out-of-memory errors of this package's own kind.

    Never held across a ``yield`` of a generator: inference mode would leak into the consumer.
    """
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    try:
        with torch.inference_mode(), autocast:
            yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(f"device {device}") from error


def out_of_memory(what: str) -> DeviceMemoryError:
    """The error of this package for exhausted memory."""
    hint = "Use a smaller batch or another device."
    return DeviceMemoryError(what, "ran out of memory", hint=hint)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _OUT_OF_MEMORY_WORDS
    )


def move_to_cpu(network: torch.nn.Module, device: torch.device) -> str | None:
    """Move a network off a device whose memory is exhausted.

    Returns
    -------
    str or None
        A message for the user; None where the network is on the CPU already.
    """
    if device.type == "cpu":
        return None
    network.to("cpu")
    free_cached_memory(device)
    return f"{device} ran out of memory: the run continues, more slowly, on the CPU"


def free_memory(device: torch.device) -> int:
    """Bytes of memory that a computation on a device can still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    available = int(psutil.virtual_memory().available)
    if device.type == "mps" and torch.backends.mps.is_available():
        unused = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(0, min(available, unused))
    return available


def free_cached_memory(device: torch.device) -> None:
    """Release memory that the allocator of a device keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
