"""The one thread on which all models compute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_R = TypeVar("_R")
_NAME = "slmsam2-inference"

#: cuDNN keeps its plans per thread: a new thread per call can cost ten times a persistent one.
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_NAME)


def run_on_inference_thread(compute: Callable[[], _R]) -> _R:
    """The result of ``compute()``, which runs on the inference thread whoever calls it.

    Calls may be nested. Errors are raised in the calling thread.
    """
    if threading.current_thread().name.startswith(_NAME):
        return compute()
    return _THREAD.submit(compute).result()
