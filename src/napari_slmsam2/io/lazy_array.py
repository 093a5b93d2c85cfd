"""What arrays have in common that are read only where they are indexed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt


class LazyArray(ABC):
    """An array whose values are read when it is indexed with integers and slices.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the whole array without compression."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, key: Any) -> npt.NDArray[Any]: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[...] if dtype is None else self[...].astype(dtype)

    def full_key(self, key: Any) -> tuple[Any, ...]:
        """An index with one entry for every dimension, in place of an ellipsis and what is left."""
        keys = key if isinstance(key, tuple) else (key,)
        dots = [i for i, one in enumerate(keys) if one is Ellipsis]
        missing = (slice(None),) * (self.ndim - len(keys) + len(dots))
        return keys[: dots[0]] + missing + keys[dots[0] + 1 :] if dots else keys + missing
