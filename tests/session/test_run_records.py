"""States of slices and what changed between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.run_records import SliceStates, edits_since, slice_digest

volumes = hnp.arrays(np.uint8, (4, 3, 5), elements=st.integers(0, 3))


def planes_of(labels, volume):
    return lambda index: labels[volume.slicer(index)]


@given(before=volumes, after=volumes, axis=st.integers(0, 2))
def test_edits_are_the_slices_that_changed(before, after, axis):
    volume = Volume(before, axis)
    n_slices, read = volume.n_slices, planes_of(after, volume)
    _, digests = edits_since(planes_of(before, volume), n_slices, None)
    edits, now = edits_since(read, n_slices, digests)
    changed = [
        i for i in range(n_slices) if (before[volume.slicer(i)] != after[volume.slicer(i)]).any()
    ]
    assert list(edits.indices) == changed
    assert now == [slice_digest(read(i)) for i in range(n_slices)]
    for index in edits.indices:
        before[volume.slicer(index)] = edits.get(index)
    np.testing.assert_array_equal(before, after)


@given(plane=hnp.arrays(np.uint8, (3, 4)))
def test_a_digest_does_not_depend_on_the_dtype(plane):
    digests = {slice_digest(plane.astype(d)) for d in (np.uint8, np.uint16, int)}
    assert len(digests) == 1
    assert (digests == {b""}) == (not plane.any())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_the_first_state_that_is_kept_stays(dtype):
    first = np.arange(12, dtype=dtype).reshape(3, 4)
    states = SliceStates((3, 4))
    states.keep(5, first.T.copy().T)
    states.keep(5, first + 1)
    states.keep(2, first * 0)
    assert states.indices == (2, 5)
    np.testing.assert_array_equal(states.get(5), first)
    assert states.get(5).dtype == dtype


def test_states_take_the_space_of_their_labels():
    plane, states = np.zeros((2048, 2048), np.uint8), SliceStates((2048, 2048))
    plane[100:120, 300:310] = np.arange(10)
    for index in range(50):
        states.put(index, plane)
        states.put(100 + index, plane * 0)
    assert states.nbytes < 50 * 100
    np.testing.assert_array_equal(states.get(7), plane)
    assert not states.get(107).any()
