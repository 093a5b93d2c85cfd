"""Number of threads of torch, and which parts of a training compute on one core."""

import pytest
import torch


@pytest.fixture
def threads():
    """The number of threads of torch can be changed."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def cores(monkeypatch, threads):
    """``cores(owner, *names)``: the cores that later calls of functions may use, as a list.

    Torch uses two threads.
    """
    threads(2)

    def watch(owner, *names):
        used = []

        def noted(function):
            def call(*arguments, **options):
                used.append(torch.get_num_threads())
                return function(*arguments, **options)

            return call

        for name in names:
            monkeypatch.setattr(owner, name, noted(getattr(owner, name)))
        return used

    return watch
