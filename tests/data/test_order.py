"""The order of an epoch, and the batches cut from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.data import order as order_module
from heliostat.data.order import CHUNK_ROWS, CHUNKS_PER_WINDOW, EpochOrder
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


def neighbour_distances(order: np.ndarray) -> np.ndarray:
    """How far apart rows i and i + 1 of the source come."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return np.abs(np.diff(place))


def test_neighbours_of_the_source_are_torn_apart_like_in_a_full_permutation():
    """Within a window the order is as good as a full permutation's; beyond it, rows are spread
    over a window of 65,536, and which windows chunks meet in changes with every epoch.
    """
    window = CHUNK_ROWS * CHUNKS_PER_WINDOW
    for num_rows, span in ((window, window), (40 * window, window)):
        order = EpochOrder(num_rows, 3, 0).positions(0, num_rows)
        full = np.random.default_rng(0).permutation(span)
        ours, best = neighbour_distances(order), neighbour_distances(full)
        within = ours[ours < window]  # all but pairs that a chunk's end parts
        assert len(within) >= 0.999 * len(ours)
        for quantile in (0.1, 0.5, 0.9):
            assert np.quantile(within, quantile) == pytest.approx(
                np.quantile(best, quantile), rel=0.05
            )
        assert (within < 10).mean() < 2 * (best < 10).mean() + 1e-4
    epochs = [EpochOrder(40 * window, 3, epoch).chunks for epoch in range(40)]
    places = np.argsort(epochs, axis=1) / len(epochs[0])
    assert np.abs(places.mean(0) - 0.5).max() < 0.25  # no chunk is always early or late
    mates = [set(chunks[:CHUNKS_PER_WINDOW].tolist()) for chunks in epochs]
    assert max(len(one & other) for one, other in zip(mates, mates[1:], strict=False)) <= 4


def test_a_cursor_is_found_without_what_comes_before_it(monkeypatch):
    """Seeking to the end of a large epoch shuffles two windows at most."""
    shuffled = []
    original = order_module.permutation
    monkeypatch.setattr(
        order_module, "permutation", lambda key, n: shuffled.append(n) or original(key, n)
    )
    order = EpochOrder(400_000_000, 3, 7)
    assert len(order.positions(399_999_000, 400_000_000)) == 1000
    assert len(shuffled) <= 3 and max(shuffled[1:]) <= CHUNK_ROWS * CHUNKS_PER_WINDOW
