"""One thread for all inference."""

from __future__ import annotations

import threading

import pytest

from napari_slmsam2.engine.inference_thread import run_on_inference_thread


def test_all_callers_share_one_thread():
    def nested():
        return run_on_inference_thread(threading.get_ident)

    found = {run_on_inference_thread(threading.get_ident) for _ in range(5)}
    found.add(run_on_inference_thread(nested))
    others = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: others.append(nested()))
        thread.start()
        thread.join()
    assert len(others) == 3
    assert len(found | set(others)) == 1
    assert threading.get_ident() not in found


def test_errors_cross_the_thread():
    with pytest.raises(ZeroDivisionError):
        run_on_inference_thread(lambda: 1 / 0)
