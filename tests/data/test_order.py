"""The order of an epoch, and the batches cut from it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heliostat.data.order import CHUNK_ROWS, EpochOrder
from heliostat.data.reader import rank_slice

sizes = st.integers(1, 5) | st.integers(1, 40_000) | st.integers(130_000, 140_000)


@given(sizes, st.integers(0, 3), st.integers(0, 3))
def test_every_row_once_an_epoch(n, seed, epoch):
    positions = EpochOrder(n, seed, epoch).positions(0, n)
    assert np.array_equal(np.sort(positions), np.arange(n))


@given(sizes, st.data())
def test_any_cursor_sees_what_the_whole_epoch_sees(n, data):
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    whole = EpochOrder(n, 7, 1).positions(0, n)
    assert np.array_equal(EpochOrder(n, 7, 1).positions(start, stop), whole[start:stop])


def test_epochs_and_seeds_differ_and_nothing_else_matters():
    first = EpochOrder(50_000, 1, 0).positions(0, 50_000)
    assert np.array_equal(first, EpochOrder(50_000, 1, 0).positions(0, 50_000))
    for seed, epoch in ((1, 1), (2, 0)):
        assert (EpochOrder(50_000, seed, epoch).positions(0, 50_000) != first).mean() > 0.99


def test_neighbours_are_far_apart_as_in_a_full_permutation():
    n = CHUNK_ROWS * 64
    positions = EpochOrder(n, 3, 0).positions(0, n)
    window = positions[: CHUNK_ROWS * 8]
    assert len(np.unique(window // CHUNK_ROWS)) == 8  # a window mixes 8 chunks
    distance = np.abs(np.diff(positions)).mean()
    assert distance > 0.8 * n / 3  # a full permutation has n/3


@given(st.integers(0, 5000), st.integers(1, 64))
def test_rank_slices_cover_a_batch_in_order(count, world):
    slices = [rank_slice(count, rank, world) for rank in range(world)]
    rows = np.concatenate([np.arange(count)[s] for s in slices])
    assert np.array_equal(rows, np.arange(count))
    assert max(s.stop - s.start for s in slices) - min(s.stop - s.start for s in slices) <= 1
