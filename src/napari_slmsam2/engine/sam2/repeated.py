"""Calls of a network that repeat with equal shapes, as CUDA graphs where that is possible.

A slice of a small batch is hundreds of short kernels, whose launches take longer than the kernels.
A CUDA graph launches all of them at once. It needs inputs at fixed addresses, equal shapes, and a
computation that depends on its tensors only; so calls are distinguished by a key (the structure of
the memory) and their shapes. Memory is not padded to one shape: a mask would exclude the fast
attention kernels. After the first slices of a sweep the structure stays the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_Tensors = tuple[Tensor, ...]
_Replay = Callable[[], _Tensors]

REPEATS = 6
"""Calls of one kind that are computed operator by operator before it is captured."""

MOST_GRAPHS = 6
"""Kinds of one call that are captured; each holds the memory of its activations."""


class RepeatedCall:
    """A function of tensors, computed operator by operator.

    Parameters
    ----------
    compute : callable
        ``compute(key, *tensors)`` returns a tuple of tensors. Tensors may be None.
    """

    def __init__(self, compute: Callable[..., _Tensors]) -> None:
        self._compute = compute

    def __call__(self, key: Hashable, *tensors: Tensor | None) -> _Tensors:
        """The result of ``compute(key, *tensors)``."""
        return self._compute(key, *tensors)

    def summary(self) -> dict[str, int]:
        """How many kinds of calls were captured, and how many could not be."""
        return {}


class CapturedCall(RepeatedCall):
    """A function of tensors that is captured once it has repeated.

    Parameters
    ----------
    compute : callable
        See `RepeatedCall`.
    capture : callable
        ``capture(function, tensors)`` returns a function without arguments that repeats
        ``function(*tensors)`` on the values that the tensors have then.
    """

    def __init__(
        self,
        compute: Callable[..., _Tensors],
        capture: Callable[
            [Callable[..., _Tensors], Sequence[Tensor | None]], Callable[[], _Tensors]
        ],
    ) -> None:
        super().__init__(compute)
        self._capture = capture
        self._seen: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, tuple[list[Tensor | None], _Replay]] = {}
        self._failed = 0

    def __call__(self, key: Hashable, *tensors: Tensor | None) -> _Tensors:
        """The result of ``compute(key, *tensors)``; the caller may keep it."""
        if torch.is_grad_enabled():
            return self._compute(key, *tensors)
        kind = key, *(None if t is None else (t.shape, t.dtype, t.device) for t in tensors)
        if kind not in self._replays and not self._begin(kind, key, tensors):
            return self._compute(key, *tensors)
        inputs, replay = self._replays[kind]
        for static, tensor in zip(inputs, tensors, strict=True):
            if static is not None and tensor is not None:
                static.copy_(tensor)
        return tuple(result.clone() for result in replay())

    def summary(self) -> dict[str, int]:
        """See `RepeatedCall.summary`."""
        return {"captured": len(self._replays), "not captured": self._failed}

    def _begin(self, kind: Hashable, key: Hashable, tensors: Sequence[Tensor | None]) -> bool:
        """Capture a call that has repeated; False where it is to be computed as usual."""
        self._seen[kind] += 1
        if self._seen[kind] != REPEATS or len(self._replays) >= MOST_GRAPHS:
            return False
        inputs = [None if t is None else t.clone() for t in tensors]
        try:
            replay = self._capture(lambda *static: self._compute(key, *static), inputs)
        except RuntimeError:  # of CUDA, out of memory included: the call works as before
            self._failed += 1
            return False
        self._replays[kind] = inputs, replay
        return True


def capture_cuda_graph(
    compute: Callable[..., _Tensors], tensors: Sequence[Tensor | None]
) -> _Replay:
    """Record the kernels of a computation on the current CUDA device.

    Raises
    ------
    RuntimeError
        The computation cannot be captured.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute(*tensors)  # plans and workspaces are made outside the graph
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_graph_pool(), capture_error_mode="thread_local"):
        results = compute(*tensors)

    def replay() -> _Tensors:
        graph.replay()
        return results

    return replay


@lru_cache(maxsize=1)
def _graph_pool() -> Any:
    """One pool of memory for all graphs: the results of each are copied before the next runs."""
    return torch.cuda.graph_pool_handle()
