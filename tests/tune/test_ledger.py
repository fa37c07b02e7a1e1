"""Rungs, and the ledger that decisions follow from."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from heliostat.spec.tune import AshaScheduler
from heliostat.tune.halving import rule_of
from heliostat.tune.ledger import Ledger
from heliostat.tune.work import CUT, FAILED, FINISHED, PAUSED, Ended, Outcome, Trial, Work

scores = st.lists(st.floats(-100, 100), min_size=1, max_size=50)


@given(scores, st.integers(2, 5), st.sampled_from(["min", "max"]))
def test_the_best_share_goes_on_and_the_worst_does_not(values, factor, goal):
    rule = rule_of(AshaScheduler(name="asha", reduction_factor=factor), goal)
    for index, value in enumerate(values):
        rule.arrived(0, index, value)
    ranked = sorted(values, reverse=goal == "max")
    kept = max(1, len(values) // factor)
    going = [v for index, v in enumerate(values) if rule.verdict(0, index) == "on"]
    assert ranked[0] in going and len(going) >= kept and all(v in ranked[:kept] for v in going)


def test_a_score_that_is_not_finite_never_goes_on():
    rule = rule_of(AshaScheduler(name="asha"), "max")
    for index, score in enumerate([math.nan, math.inf]):
        rule.arrived(0, index, score)
        assert rule.verdict(0, index) == "cut"


def test_a_ledger_is_what_its_rows_say_whoever_wrote_them(tmp_path):
    first = Ledger(tmp_path, "a/1")
    trials = [Trial(f"t{i}", i, {"x": i}) for i in range(4)]
    for trial, score in zip(trials[:2], (0.5, 0.7), strict=True):
        first.outcome(Outcome(Work(trial, None, 1), PAUSED, 1, score, {"auc": score}, 1.5))
    first.final(Ended(trials[0], CUT, 1, 0.5, {"auc": 0.5}, 2.0))
    first.final(Ended(trials[1], FINISHED, 4, 0.9, {"auc": 0.9}, 8.0))
    first.final(Ended(trials[2], FAILED, 0, math.nan, {}, 0.1, "it broke"))
    assert first.agree({"lag": 4})["lag"] == 4
    second = Ledger(tmp_path, "a/2")
    assert second.records == first.records and second.agree({"lag": 9})["lag"] == 4
    # What was decided at a rung stays decided; a finished trial has passed every rung.
    assert second.known(Work(trials[0], None, 1), True).verdict == "cut"
    assert second.known(Work(trials[1], None, 1), True).verdict == "on"
    assert second.known(Work(trials[1], None, 2), True).status == FINISHED
    # Without a scheduler a trial that was cut has not been tried to its end; nor one that failed.
    assert second.known(Work(trials[0], None, None), True) is None
    assert second.known(Work(trials[2], None, None), True) is None
    assert second.records["t2"].score is None and second.seconds("t0") == 1.5
    second.final(Ended(trials[2], FINISHED, 4, 0.8, {"auc": 0.8}, 3.0))
    assert Ledger(tmp_path, "a/3").records["t2"].run == "a/2"
