"""The state of an interrupted run as JSON values and arrays, and back.

Pickle would do the same, but reading a pickle can run any program; here only data and the classes
of this package are restored.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

import numpy as np

from napari_slmsam2.core.soft_masks import SoftMasks
from napari_slmsam2.session.file.arrays import Arrays, Members

STATE_VERSION = 2
"""Increased where an interrupted run of an older version would continue differently: 2 since the
forward and the backward steps of `compact` alternate."""

_PACKAGE = "napari_slmsam2."
_FOLDER = "state"


def _is_data(kind: type) -> bool:
    """Whether a class of this package only holds values."""
    return dataclasses.is_dataclass(kind) or issubclass(kind, tuple | SoftMasks)


class StatePacker:
    """Turns an object into nodes and arrays; what is shared is stored once.

    Supported are numbers, text, bytes, numpy arrays, tensors, slices, lists, tuples, sets, dicts
    and objects of this package that consist of these.
    """

    def __init__(self, arrays: Members) -> None:
        self.nodes: list[dict[str, Any]] = []
        self._arrays = arrays
        self._numbers: dict[int, int] = {}
        self._alive: list[object] = []

    def pack(self, value: Any) -> int:
        """The number of the node of an object.

        Raises
        ------
        TypeError
            It holds something that cannot be stored.
        """
        if id(value) in self._numbers:
            return self._numbers[id(value)]
        number = self._numbers[id(value)] = len(self.nodes)
        self._alive.append(value)
        self.nodes.append({})
        self.nodes[number] = self._node(value, f"{_FOLDER}/{number}.npy")
        return number

    def _node(self, value: Any, name: str) -> dict[str, Any]:
        if value is None or (
            isinstance(value, bool | int | float | str) and not isinstance(value, np.generic)
        ):
            return {"value": value}
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                raise TypeError("an array of objects cannot be stored")
            self._arrays[name] = np.asarray(value)
            return {"array": name, "scalar": isinstance(value, np.generic)}
        if isinstance(value, bytes):
            self._arrays[name] = np.frombuffer(value, np.uint8)
            return {"bytes": name}
        if isinstance(value, slice):
            return {"slice": [self.pack(v) for v in (value.start, value.stop, value.step)]}
        if type(value) in (list, tuple, set, frozenset):
            return {type(value).__name__: [self.pack(item) for item in value]}
        if type(value) is dict:
            return {"dict": [[self.pack(k), self.pack(v)] for k, v in value.items()]}
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(torch, value, name)
        return self._object(value)

    def _tensor(self, torch: Any, value: Any, name: str) -> dict[str, Any]:
        local = value.detach().cpu().contiguous()
        is_half = local.dtype is torch.bfloat16
        self._arrays[name] = (local.view(torch.int16) if is_half else local).numpy()
        return {"tensor": name, "bfloat16": is_half, "cpu": value.device.type == "cpu"}

    def _object(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if not (kind.__module__.startswith(_PACKAGE) and _is_data(kind)):
            raise TypeError(f"{kind.__module__}.{kind.__qualname__} cannot be stored")
        where = {"class": [kind.__module__, kind.__qualname__]}
        if isinstance(value, tuple):  # a named one
            return {**where, "items": [self.pack(item) for item in value]}
        if dataclasses.is_dataclass(value):
            state = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        else:
            state = value.__getstate__()
        return {**where, "fields": {name: self.pack(one) for name, one in state.items()}}


class StateReader:
    """The inverse of `StatePacker`.

    Parameters
    ----------
    nodes : list of dict
    arrays : Arrays
    device : str
        For tensors that were not on the CPU.
    """

    def __init__(self, nodes: list[dict[str, Any]], arrays: Arrays, device: str) -> None:
        self._nodes = nodes
        self._arrays = arrays
        self._device = device
        self._built: dict[int, Any] = {}

    def read(self, number: int) -> Any:
        """The object of a node."""
        if number not in self._built:
            self._built[number] = self._build(self._nodes[number])
        return self._built[number]

    def _build(self, node: dict[str, Any]) -> Any:
        if "class" in node:
            return self._object(node)
        kind, content = next(iter(node.items()))
        if kind == "value":
            return content
        if kind == "array":
            array = self._arrays.read_any(content)
            return array[()] if node["scalar"] else array
        if kind == "bytes":
            return self._arrays.read_any(content).tobytes()
        if kind == "tensor":
            return self._tensor(node)
        if kind == "dict":
            return {self.read(k): self.read(v) for k, v in content}
        makers: dict[str, Any] = {
            "list": list, "tuple": tuple, "set": set, "frozenset": frozenset,
            "slice": lambda parts: slice(*parts),
        }  # fmt: skip
        return makers[kind]([self.read(item) for item in content])

    def _tensor(self, node: dict[str, Any]) -> Any:
        import torch

        tensor = torch.from_numpy(self._arrays.read_any(node["tensor"]))
        if node["bfloat16"]:
            tensor = tensor.view(torch.bfloat16)
        return tensor if node["cpu"] else tensor.to(self._device)

    def _object(self, node: dict[str, Any]) -> Any:
        module, name = node["class"]
        if not module.startswith(_PACKAGE):
            raise ValueError(f"{module} is not a module of this package")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and kind.__module__ == module and _is_data(kind)):
            raise ValueError(f"{module}.{name} is not a class of data")
        if issubclass(kind, tuple):
            return kind(*(self.read(item) for item in node["items"]))
        made = object.__new__(kind)
        fields = {name: self.read(number) for name, number in node["fields"].items()}
        if isinstance(made, SoftMasks):
            made.__setstate__(fields)
            return made
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made
