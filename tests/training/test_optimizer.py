"""The first optimiser in a process that draws with Mesa must not import Triton."""

import subprocess
import sys

from napari_slmsam2.training import optimizer

CODE = """
import sys
from napari_slmsam2.training import optimizer
optimizer.another_llvm = lambda: {another}
import torch
layer = torch.nn.Linear(2, 2)
optimizer = optimizer.make_adamw(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
print("triton" in sys.modules, "torch._dynamo" in sys.modules)
"""


def test_an_optimiser_works_without_triton():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(another=True)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_llvm_is_detected_by_the_libraries_of_the_process(tmp_path, monkeypatch):
    maps = tmp_path / "maps"
    monkeypatch.setattr(optimizer, "_MAPS", maps)
    assert not optimizer.another_llvm()
    maps.write_text("7f00-7f01 r-xp 0 00:00 0 /usr/lib/libm.so.6\n")
    assert not optimizer.another_llvm()
    maps.write_text("7f00-7f01 r-xp 0 00:00 0 /usr/lib/x86_64-linux-gnu/libLLVM-15.so.1\n")
    assert optimizer.another_llvm()
