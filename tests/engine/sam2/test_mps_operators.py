"""The inference path uses only operators that Apple's MPS has; no Mac is needed for this test.

The list is PyTorch's own: ``native_functions.yaml``, which PyTorch ships inside ``torchgen`` and
generates its dispatcher from, names for every operator the devices with a kernel. An operator
counts as supported with an MPS kernel of its own or of the structured operator that it delegates
to, or if it is composed of other operators. What a composed operator calls inside is checked for
implicit compositions only.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.engine.sam2 import attention
from napari_slmsam2.engine.sam2.masks import pack_bytes
from napari_slmsam2.engine.sam2.tensors import SliceOutput

from .test_masks import measured
from .test_segmenter import SHAPE, disc, seed

#: Composed differently on every device; MPS has a kernel of its own.
BY_DEVICE = {"scaled_dot_product_attention": "_scaled_dot_product_attention_math_for_mps"}


@pytest.fixture(scope="module")
def supported() -> set[str]:
    """Names with overload of the operators that MPS has."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    devices, delegates = {}, {}
    for entry in entries:
        name = entry["func"].partition("(")[0]
        keys = entry.get("dispatch", {"CompositeImplicitAutograd": ""})
        devices[name] = {key.strip() for names in keys for key in names.split(",")}
        if "structured_delegate" in entry:
            delegates[name] = entry["structured_delegate"]
    found = set()
    for name in devices:
        keys = devices[name] | devices.get(delegates.get(name, ""), set())
        if "MPS" in keys or any(key.startswith("Composite") for key in keys):
            found.add(name)
    assert "addmm" in found
    assert "linalg_eig" not in found
    return found


class Walk(TorchDispatchMode):
    """Collects the operators that are called, and the types of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        namespace, _, name = func._schema.name.partition("::")
        assert namespace in ("aten", "prim")
        if name not in BY_DEVICE:
            if torch._C.DispatchKey.CompositeImplicitAutograd not in func.py_kernels:
                with self:
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            overload = func._schema.overload_name
            self.names.add(f"{name}.{overload}" if overload else name)
        self.dtypes.update(one.dtype for one in args if isinstance(one, torch.Tensor))
        return func(*args, **kwargs)


def infer(segmenter, volume) -> None:
    """Seeds of all kinds, then slices with one and with several labels."""
    images = [volume.take(k) for k in range(4)]
    embeddings = segmenter.encode_images(images[:1])
    embeddings += [segmenter.encode_image(image) for image in images[1:]]
    prompts = [
        seed(0),
        SlicePrompt.from_points(2, 0, [(18, 15), (2, 2)], [1, 0]).refine([(25, 15)], [1]),
        SlicePrompt.from_box(3, 0, (9, 8, 28, 22)),
        SlicePrompt.absent_at(4, 0),
        seed(0, 5, disc(9, 9, 5)),
    ]
    banks = []
    for prompt in prompts:
        content = segmenter.encode_seed(embeddings[0], prompt, SHAPE).content
        banks.append(MemoryBank(prompt.label, {0: MemoryEntry(0, True, content)}))
    context = SweepContext(len(images), SHAPE, (1.0, 1.0, 1.0))
    for index in range(1, 4):
        found = segmenter.segment(embeddings[index], index, 1, banks, context)
        for bank, one in zip(banks, found, strict=True):
            bank.add(MemoryEntry(index, False, one.content))


@pytest.mark.parametrize("pooling", [1, 2])
def test_every_operator_of_inference_runs_on_mps(
    make_segmenter, textured, supported, monkeypatch, pooling
):
    monkeypatch.setattr(attention, "_is_on_cpu", lambda tensor: False)
    segmenter = make_segmenter()
    segmenter.network.pool_memory(pooling)
    infer(segmenter, textured)  # tables are made once, on the host
    with Walk() as walk:
        infer(segmenter, textured)
        output = SliceOutput(
            torch.zeros(2, 1, 16, 16), torch.zeros(2, 1), torch.zeros(2, 8), torch.zeros(2)
        )
        pack_bytes([*measured(output, SHAPE)])
    segmenter.network.pool_memory(1)
    assert len(walk.names) > 40
    assert not walk.names - supported
    assert not walk.dtypes & {torch.float64, torch.complex64, torch.complex128}
    assert supported.issuperset(BY_DEVICE.values())
