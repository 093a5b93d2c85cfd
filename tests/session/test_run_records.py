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


@given(before=volumes, after=volumes, axis=st.integers(0, 2))
def test_edits_are_the_slices_that_changed(before, after, axis):
    volume = Volume(before, axis)
    _, digests = edits_since(volume, before, None)
    edits, now = edits_since(volume, after, digests)
    changed = [
        i
        for i in range(volume.n_slices)
        if (before[volume.slicer(i)] != after[volume.slicer(i)]).any()
    ]
    assert list(edits.indices) == changed
    assert now == [slice_digest(volume, after, i) for i in range(volume.n_slices)]
    edits.write(before)
    np.testing.assert_array_equal(before, after)


@given(plane=hnp.arrays(np.uint8, (3, 4)))
def test_a_digest_does_not_depend_on_the_dtype(plane):
    volume = Volume(np.zeros((1, 3, 4)))
    digests = {slice_digest(volume, plane[None].astype(d), 0) for d in (np.uint8, np.uint16, int)}
    assert len(digests) == 1
    assert (digests == {b""}) == (not plane.any())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_swapping_twice_is_the_identity(axis):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (4, 5, 6)).astype(np.uint8)
    volume = Volume(labels.copy(), axis)
    original = labels.copy()
    states = SliceStates(volume)
    states.keep(labels, 1)
    labels[volume.slicer(1)] = 7
    states.keep(labels, 1)
    labels[volume.slicer(2)] = 5
    changed = labels.copy()
    redo = states.swap(labels)
    np.testing.assert_array_equal(labels[volume.slicer(1)], original[volume.slicer(1)])
    assert (labels[volume.slicer(2)] == 5).all()
    redo.swap(labels)
    np.testing.assert_array_equal(labels, changed)


def test_states_fit_an_array_that_was_widened_since():
    labels = np.full((2, 3, 3), 200, np.uint8)
    states = SliceStates(Volume(labels))
    states.keep(labels, 0)
    wide = labels.astype(np.uint32)
    wide[0] = 70_000
    redo = states.swap(wide)
    assert (wide == 200).all()
    redo.swap(wide)
    assert (wide[0] == 70_000).all()
    np.testing.assert_array_equal(redo.get(0), wide[0])
