"""Searches: pure functions of space and seed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.plan.space import configurations, draw, rungs
from heliostat.spec.tune import AshaScheduler, NoScheduler, Range, TuneSpec


def random_search(trials: int, **space) -> TuneSpec:
    return TuneSpec.model_validate({"trials": trials, "space": space})


SPACE = {"a": [1, 2, 3], "b": {"low": 0.001, "high": 0.1, "log": True}}


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))
def test_more_trials_only_append(seed, few, more):
    short = configurations(random_search(few, **SPACE), seed)
    long = configurations(random_search(few + more, **SPACE), seed)
    assert long[:few] == short


@given(st.integers(0, 2**31))
def test_a_new_key_never_changes_the_others_draws(seed):
    alone = configurations(random_search(20, b=SPACE["b"]), seed)
    both = configurations(random_search(20, **SPACE), seed)
    assert [c["b"] for c in alone] == [c["b"] for c in both]


@given(st.integers(0, 2**31))
def test_duplicates_are_redrawn_and_a_small_space_is_exhausted(seed):
    found = configurations(random_search(50, a=[1, 2, 3], b=["x", "y"]), seed)
    assert len(found) == 6 and len({(c["a"], c["b"]) for c in found}) == 6


@given(st.floats(0, 1, exclude_max=True), st.integers(-50, 50), st.integers(1, 60), st.booleans())
def test_draws_stay_within_bounds_and_keep_their_type(u, low, width, log):
    if log:
        low = abs(low) + 1
    whole = Range(low=low, high=low + width, log=log)
    value = draw(whole, u)
    assert isinstance(value, int) and low <= value <= low + width
    real = Range(low=float(low), high=float(low + width), log=log)
    assert low - 1e-9 <= draw(real, u) <= low + width + 1e-9


def test_whole_numbers_are_equally_likely_at_the_bounds():
    found = configurations(random_search(1, a={"low": 0, "high": 3}), 0)
    assert found
    draws = [draw(Range(low=0, high=3), (i + 0.5) / 4000) for i in range(4000)]
    assert all(abs(draws.count(k) - 1000) <= 1 for k in range(4))


def test_a_grid_is_the_product_in_order():
    spec = TuneSpec.model_validate(
        {"search": "grid", "space": {"a": [1, 2], "b": {"low": 0.0, "high": 1.0, "step": 0.5}}}
    )
    points = configurations(spec, 0)
    assert [(c["a"], c["b"]) for c in points] == [(a, b) for a in (1, 2) for b in (0.0, 0.5, 1.0)]


@given(st.integers(1, 5), st.integers(2, 5), st.integers(1, 500))
def test_rungs_grow_by_the_factor_and_stay_below_the_end(grace, factor, length):
    found = rungs(AshaScheduler(name="asha", grace_period=grace, reduction_factor=factor), length)
    assert all(rung < length for rung in found)
    assert all(math.isclose(b / a, factor) for a, b in zip(found, found[1:], strict=False))
    assert rungs(NoScheduler(), length) == ()


def test_a_range_with_steps_is_counted_not_built():
    wide = Range(low=0, high=2_000_000_000, step=1)
    assert wide.num_points == 2_000_000_001
    assert draw(wide, 0.0) == 0 and draw(wide, 1 - 2**-53) == 2_000_000_000
    assert [draw(Range(low=0.0, high=1.0, step=0.25), u / 5) for u in range(5)] == [
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    for tune in (
        TuneSpec(search="grid", space={"model.max_depth": wide}),
        TuneSpec(search="random", trials=2_000_000_000, space={"model.max_depth": wide}),
    ):
        with pytest.raises(ValueError, match="trials are more than 100,000"):
            configurations(tune, 0)
    with pytest.raises(ValueError, match="leads through more than"):
        Range(low=0.0, high=1e300, step=1e-300)
