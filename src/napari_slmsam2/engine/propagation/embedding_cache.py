"""Encoded slices, kept up to a byte budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class EmbeddingCache:
    """Least recently used embeddings go first.

    One store serves all labels, both sweeps and every re-run on a volume, as long as model and
    intensity window stay.

    Parameters
    ----------
    budget : int
        Bytes to hold at most. 0 holds nothing that takes space.

    Attributes
    ----------
    nbytes : int
        Bytes held.
    encoded : int
        How often an image was encoded.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.nbytes = 0
        self.encoded = 0
        self._embeddings: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: _Key, encode: Callable[[_Key], Any], most: int | None = None) -> Any:
        """The embedding of ``key``, the slices that it depends on; else that of ``encode(key)``.

        Parameters
        ----------
        key : hashable
        encode : callable
        most : int, optional
            Bytes to hold at most, where that is less than the budget.
        """
        if key in self._embeddings:
            self._embeddings.move_to_end(key)
            return self._embeddings[key]
        embedding = encode(key)
        self.put(key, embedding, most)
        return embedding

    def put(self, key: Hashable, embedding: Any, most: int | None = None) -> None:
        """Store the embedding of an image that was encoded; ``most`` as in `get`."""
        budget = self.budget if most is None else min(most, self.budget)
        self.encoded += 1
        if embedding.nbytes <= budget:
            self._embeddings[key] = embedding
            self.nbytes += embedding.nbytes
        while self.nbytes > budget:
            _, old = self._embeddings.popitem(last=False)
            self.nbytes -= old.nbytes

    def has_room(self, count: int) -> bool:
        """Whether ``count`` more embeddings of the size of those here leave the last one here."""
        return len(self) > 0 and (count + 1) * self.nbytes / len(self) <= self.budget

    def __contains__(self, key: Hashable) -> bool:
        return key in self._embeddings

    def clear(self) -> None:
        """Forget everything, also what takes no space."""
        self._embeddings.clear()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._embeddings)
