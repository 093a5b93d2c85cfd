"""Embeddings are kept up to a budget and computed once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache


@given(
    budget=st.integers(0, 50),
    asked=st.lists(st.integers(0, 9), max_size=40),
    sizes=st.lists(st.integers(0, 20), min_size=10, max_size=10),
)
def test_never_more_than_the_budget_and_always_the_right_one(budget, asked, sizes):
    store = EmbeddingCache(budget)
    encoded = []

    def encode(index):
        encoded.append(index)
        return np.full(sizes[index], index, np.uint8)

    for index in asked:
        embedding = store.get(index, encode)
        assert len(embedding) == sizes[index]
        assert (embedding == index).all()
        assert store.nbytes <= budget
    assert store.encoded == len(encoded)
    if budget >= sum(sizes):
        assert len(encoded) == len(set(asked))


def test_the_least_recently_used_goes_first():
    store = EmbeddingCache(20)

    def encode(index):
        return np.zeros(8, np.uint8)

    for index in (1, 2, 1, 3):
        store.get(index, encode)
    assert store.encoded == 3
    store.get(1, encode)
    assert store.encoded == 3
    store.get(2, encode)
    assert store.encoded == 4


def test_clearing_forgets_also_what_takes_no_space():
    """The embedding of a model that looks at no intensities must not reach the next model."""
    store = EmbeddingCache(100)
    store.get(0, lambda index: np.zeros(0))
    store.clear()
    assert len(store) == 0
    assert len(store.get(0, lambda index: np.ones(2))) == 2
    store.clear()
    assert store.nbytes == 0
