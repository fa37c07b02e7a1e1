"""Decisions and the ledger they follow from."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from heliostat.spec.tune import AshaScheduler, NoScheduler
from heliostat.tune.asha import goes_on
from heliostat.tune.ledger import CUT, FAILED, FINISHED, Ledger, Trial

scores = st.lists(st.floats(-100, 100), min_size=1, max_size=50)


@given(scores, st.integers(2, 5), st.sampled_from(["min", "max"]))
def test_the_best_share_goes_on_and_the_worst_does_not(values, factor, goal):
    ranked = sorted(values, reverse=goal == "max")
    assert goes_on(ranked[0], values, factor, goal)
    kept = max(1, len(values) // factor)
    going = [v for v in values if goes_on(v, values, factor, goal)]
    assert len(going) >= kept and all(v in ranked[:kept] for v in going)


def test_a_score_that_is_not_finite_never_goes_on():
    assert not goes_on(math.nan, [math.nan], 2, "max") and not goes_on(math.inf, [1.0], 2, "max")


def test_a_ledger_is_what_its_rows_say_whoever_wrote_them(tmp_path):
    first = Ledger(tmp_path, "a/1")
    trials = [Trial(f"t{i}", i, {"x": i}) for i in range(4)]
    first.rung(trials[0], 1, 1, {"auc": 0.5}, 0.5)
    first.rung(trials[1], 1, 1, {"auc": 0.7}, 0.7)
    first.final(trials[0], CUT, 1, 0.5, {"auc": 0.5}, 2.0)
    first.final(trials[1], FINISHED, 4, 0.9, {"auc": 0.9}, 8.0)
    first.final(trials[2], FAILED, 0, math.nan, {}, 0.1, "it broke")
    second = Ledger(tmp_path, "a/2")
    assert second.records == first.records
    assert sorted(second.rung_scores(1)) == [0.5, 0.7]
    asha = AshaScheduler(name="asha")
    assert [second.records[t.id].is_done(asha) for t in trials[:3]] == [True, True, False]
    # Without a scheduler a trial that was cut has not been tried to its end.
    assert not second.records["t0"].is_done(NoScheduler()) and second.records["t2"].score is None
    second.final(trials[2], FINISHED, 4, 0.8, {"auc": 0.8}, 3.0)
    assert Ledger(tmp_path, "a/3").records["t2"].run == "a/2"
