"""Parts of a batch, computed side by side on the cores of a CPU.

A step of a few objects is thousands of small operations. Threads that share each operation mostly
wait for each other; threads that each take some of the objects do so less, the more objects each
has: between operations they wait for Python's lock.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

import torch

_T = TypeVar("_T")
_R = TypeVar("_R")

PART = 8
"""Objects of a part, at most. Two objects together take a third less time per object than one."""


def compute_in_parts(
    compute: Callable[[Sequence[_T]], list[_R]],
    items: Sequence[_T],
    device: torch.device,
    *,
    most: int = PART,
) -> list[_R]:
    """The results of ``compute(part)`` for parts of the items, in the order of the items.

    On a CPU the parts hold up to ``most`` items, and four or more items make an even number of
    parts, so that two cores end together. Each is computed on one core, and as many at once as
    torch may use threads (``OMP_NUM_THREADS``, ``torch.set_num_threads``). How many threads share
    an operation changes the last digits of a result, and so may more than `PART` items: the results
    are equal whatever the number of threads and of items. On other devices all items are one part.

    Parameters
    ----------
    compute : callable
        Called on several threads at once.
    items : sequence
    device : torch.device
        On which ``compute`` computes.
    most : int
        Items of a part, `PART` at most.

    Raises
    ------
    Exception
        The error of a part, as it is. No part is being computed any more, so that the caller can
        compute again at once.
    """
    if device.type != "cpu":
        return compute(items)
    if not items:
        return []
    n_parts = 2 * math.ceil(len(items) / (2 * most)) if len(items) > 3 else 1
    edges = [number * len(items) // n_parts for number in range(n_parts + 1)]
    parts = [items[first:stop] for first, stop in itertools.pairwise(edges)]
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        return [one for part in parts for one in compute(part)]
    futures = [_single_core_threads(n_threads).submit(compute, part) for part in parts]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        for future in futures:
            future.cancel()
    wait(futures)
    return [one for future in futures for one in future.result()]


def compute_on_one_core(compute: Callable[[], _R], device: torch.device) -> _R:
    """The result of ``compute()``; on a CPU, threads that share operations are not used.

    On cores that other programs use, they wait for each other far longer than they compute.
    """
    (found,) = compute_in_parts(lambda _: [compute()], [None], device)
    return found


@lru_cache(maxsize=1)
def _single_core_threads(n: int) -> ThreadPoolExecutor:
    """Threads on each of which torch uses one core."""
    pool, all_started = ThreadPoolExecutor(n, "slmsam2-compact"), threading.Barrier(n)

    def use_one_core(_: int) -> int:
        default = torch.get_num_threads()
        all_started.wait()
        torch.set_num_threads(1)
        all_started.wait()
        return default

    default = max(pool.map(use_one_core, range(n)))
    # What one thread sets is the default of threads that start later.
    reset = threading.Thread(target=torch.set_num_threads, args=(default,))
    reset.start()
    reset.join()
    return pool


# A forked process has none of the threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_core_threads.cache_clear)
