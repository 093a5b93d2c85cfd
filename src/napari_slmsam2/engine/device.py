"""Which device computes, in which precision, and what to do when its memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from napari_slmsam2.core.errors import DeviceError, DeviceMemoryError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_THREAD_NAME = "slmsam2-inference"

#: All inference runs on this one thread: cuDNN keeps its plans per thread, so that a fresh thread
#: per call can cost ten times a persistent one.
_INFERENCE_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_THREAD_NAME)

#: From this input size on, bfloat16 pays on a CPU (benchmarks/README.md).
_LARGE_INPUT = 256

_OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def on_inference_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function run on the one inference thread, whoever calls it."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if threading.current_thread().name.startswith(_THREAD_NAME):
            return function(*args, **kwargs)
        return _INFERENCE_THREAD.submit(function, *args, **kwargs).result()

    return call


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on.

    Parameters
    ----------
    name : str
        ``auto`` (CUDA, else Apple MPS, else CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    DeviceError
        The device is not known or not there.
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
                "device", "is not there", expected=_available(), found=name, hint="Use auto."
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            "device", "is not there", expected=_available(), found=name, hint="Use auto."
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
        raise DeviceMemoryError(
            f"device {device}", "ran out of memory", hint="Use a smaller batch or another device."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _OUT_OF_MEMORY_WORDS
    )


def free_cached_memory(device: torch.device) -> None:
    """Give back what the allocator of a device keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
