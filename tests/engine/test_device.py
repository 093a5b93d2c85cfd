"""Devices, precision, the inference thread and errors of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_slmsam2.core.errors import DeviceError, DeviceMemoryError
from napari_slmsam2.engine import device as devices
from napari_slmsam2.engine.device import (
    choose_device,
    choose_dtype,
    computing,
    free_memory,
    is_out_of_memory,
)

CPU = torch.device("cpu")


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_the_cpu_is_always_there(name):
    assert choose_device(name) == CPU


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "not found; expected cpu; found cuda"),
        ("cuda:1", "not found"),
        ("mps", "not found"),
        ("gpu", "is not known; expected auto, cpu, mps, cuda or cuda:N; found 'gpu'"),
        ("", "is not known"),
        ("cuda:x", "is not known"),
        ("meta", "is not supported"),
        ("xpu", "is not supported"),
    ],
)
def test_devices_that_are_not_there(name, message):
    with pytest.raises(DeviceError, match=message):
        choose_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_gpus():
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match=r"expected cpu.*cuda:0 \| cuda:1; found cuda:2"):
        choose_device("cuda:2")


def test_mps_comes_after_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    assert choose_device("mps").type == "mps"


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cuda", (7, 5), torch.float32),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (9, 0), torch.bfloat16),
        ("cpu", {}, torch.float32),
        ("cpu", {"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("cpu", {"avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"amx_bf16": True}, torch.bfloat16),
        ("mps", None, torch.float32),
    ],
)
def test_bfloat16_where_the_device_is_fast_at_it(monkeypatch, device, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    assert choose_dtype(torch.device(device)) == expected
    assert choose_dtype(torch.device(device), "float32") == torch.float32
    assert choose_dtype(torch.device(device), "bfloat16") == torch.bfloat16


def test_small_inputs_stay_in_float32_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype(CPU, image_size=1024) == torch.bfloat16
    assert choose_dtype(CPU, image_size=128) == torch.float32
    assert choose_dtype(CPU, "bfloat16", image_size=128) == torch.bfloat16


def test_this_machine_has_an_answer():
    assert choose_dtype(CPU) in (torch.float32, torch.bfloat16)


def test_inference_mode_ends_with_the_step():
    assert torch.is_grad_enabled()
    with computing(CPU, torch.bfloat16):
        assert torch.is_inference_mode_enabled()
        product = torch.ones(4, 4) @ torch.ones(4, 4)
        assert product.dtype == torch.bfloat16
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    with computing(CPU, torch.float32):
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    ],
)
def test_memory_errors_become_our_own(error):
    assert is_out_of_memory(error)
    message = "device cpu: ran out of memory"
    with pytest.raises(DeviceMemoryError, match=message) as caught, computing(CPU, torch.float32):
        raise error
    assert caught.value.__cause__ is error
    assert not isinstance(caught.value, RuntimeError)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), computing(CPU, torch.float32):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_real_allocation_that_cannot_be():
    with pytest.raises(DeviceMemoryError), computing(CPU, torch.float32):
        torch.empty(2**60, dtype=torch.float32)
    assert np.isfinite(torch.ones(1).numpy()).all()


@pytest.mark.parametrize(("kind", "emptied"), [("cuda", "cuda"), ("mps", "mps"), ("cpu", None)])
def test_cached_memory_is_given_back(monkeypatch, kind, emptied):
    called = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: called.append("mps"))
    devices.free_cached_memory(torch.device(kind))
    assert called == ([emptied] if emptied else [])


def test_free_memory_counts_what_the_allocator_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert free_memory(torch.device("cuda")) == 1400
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 900)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 250)
    assert free_memory(torch.device("mps")) == 650
    assert free_memory(CPU) > 2**20
