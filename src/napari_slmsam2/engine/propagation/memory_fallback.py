"""How models are called: on the inference thread, with less when memory is exhausted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from napari_slmsam2.core.errors import DeviceMemoryError
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.engine.inference_thread import run_on_inference_thread
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache

_T = TypeVar("_T")
_R = TypeVar("_R")


class MemoryFallback:
    """Calls a model; repeats the call with smaller batches, without stored embeddings, on the CPU.

    Every call of a model by a run or a prompt goes through here, so that these rules hold for all
    models.

    Parameters
    ----------
    segmenter : SliceSegmenter
        Its `free_memory` is called when smaller batches do not suffice.
    embeddings : EmbeddingCache
        Cleared before that.
    batch_size : int
        Labels to segment at once, as long as memory suffices.
    """

    def __init__(
        self, segmenter: SliceSegmenter, embeddings: EmbeddingCache, batch_size: int
    ) -> None:
        self._segmenter = segmenter
        self._embeddings = embeddings
        self._batch_size = batch_size
        self._notes: list[str] = []

    def call(self, compute: Callable[[], _R]) -> _R:
        """The result of ``compute()``, repeated for as long as memory can be freed.

        Raises
        ------
        DeviceMemoryError
            Nothing is left to free.
        """
        while True:
            try:
                return _compute(compute)
            except DeviceMemoryError as error:
                self._free(error)

    def call_batch(
        self, compute: Callable[[Sequence[_T]], list[_R]], items: Sequence[_T]
    ) -> list[_R]:
        """The results of ``compute(batch)`` for the first items, as many as fit into memory.

        Raises
        ------
        DeviceMemoryError
            A single item does not fit, and nothing is left to free.
        """
        while True:
            batch = items[: self._batch_size]
            try:
                return _compute(partial(compute, batch))
            except DeviceMemoryError as error:
                if len(batch) > 1:
                    self._halve(len(batch))
                else:
                    self._free(error)

    def take_notes(self) -> list[str]:
        """What was done since the last call, one message for the user per measure."""
        notes, self._notes = self._notes, []
        return notes

    def _halve(self, batch: int) -> None:
        self._batch_size = max(1, batch // 2)
        labels = "1 label" if self._batch_size == 1 else f"{self._batch_size} labels"
        self._notes.append(f"memory is short: {labels} at a time now")

    def _free(self, error: DeviceMemoryError) -> None:
        self._embeddings.clear()
        note = self._segmenter.free_memory()
        if note is None:
            raise error
        self._notes.append(note)


def _compute(compute: Callable[[], _R]) -> _R:
    try:
        return run_on_inference_thread(compute)
    except (RuntimeError, MemoryError) as error:
        # torch is imported here only: models without weights do not need it.
        from napari_slmsam2.engine.device import is_out_of_memory, out_of_memory

        if not is_out_of_memory(error):
            raise
        raise out_of_memory("model") from error
