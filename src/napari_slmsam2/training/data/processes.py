"""Work of the training that is divided among processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

from napari_slmsam2.core.cores import count_cores

_T = TypeVar("_T")
_R = TypeVar("_R")


def map_in_processes(
    compute: Callable[[_T], _R], items: Iterable[_T], workers: int | None
) -> Iterator[_R]:
    """The results of ``compute(item)`` in the order of the items, as they become ready.

    Parameters
    ----------
    compute : callable
        Can be pickled, as can items and results.
    items : iterable
    workers : int or None
        Number of processes; they divide the cores. 1: this process. None: one for every core.
    """
    items = list(items)
    workers = min(workers or count_cores(), max(1, len(items)))
    if workers == 1:
        yield from map(compute, items)
        return
    # A forked process hangs when torch has already computed with several threads.
    with ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, count_cores() // workers),),
    ) as pool:
        yield from pool.map(compute, items)
