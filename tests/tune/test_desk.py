"""Decisions of a sweep: pure functions of what was told, whatever the clock does."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.plan.space import configurations, identity_of
from heliostat.spec.tune import TuneSpec
from heliostat.tune.desk import Desk
from heliostat.tune.halving import rule_of
from heliostat.tune.policy import Policy
from heliostat.tune.search import ListedSearch, TpeSearch
from heliostat.tune.work import CUT, FINISHED, PAUSED, Outcome

RUNGS = (1, 3, 9)
SPACE = {"x": {"low": 0.0, "high": 1.0}, "y": [1, 2, 3]}


def score_of(work) -> float:
    """What a trial shows: it depends on nothing but the trial, its fold and its length."""
    config, length = work.trial.config, work.until or 27
    noise = random.Random(f"{work.trial.id}/{work.fold}/{length}").random() / length
    return (config["x"] - 0.6) ** 2 + 0.1 * config["y"] + noise


def outcome_of(work) -> Outcome:
    status = FINISHED if work.until is None else PAUSED
    return Outcome(work, status, work.until or 27, score_of(work), {"loss": score_of(work)})


class Sweeping:
    """A sweep without Ray: `lanes` works at a time, which end in an order that `chance` draws."""

    def __init__(self, tune: dict, lanes: int, chance: random.Random, folds=(None,), lag=None):
        spec = TuneSpec.model_validate({"space": SPACE, **tune})
        rungs = RUNGS if spec.scheduler.name == "asha" else ()
        search = (
            TpeSearch(spec, 0, "min")
            if spec.search == "tpe"
            else ListedSearch(configurations(spec, 0))
        )
        policy = Policy(search, rule_of(spec.scheduler, "min"), rungs, folds, identity_of)
        self.known: dict = {}
        self.ended: list = []
        self.desk = Desk(policy, lambda work: self.known.get(work.key), self.ended.append, lag)
        self.lanes, self.chance, self.running, self.trained = lanes, chance, [], []

    def run(self, most: int | None = None) -> list:
        """Work until the end, or until `most` works are done; what was decided."""
        while most is None or len(self.trained) < most:
            while len(self.running) < self.lanes and (work := self.desk.next()) is not None:
                self.running.append(work)
            if not self.running:
                break
            work = self.running.pop(self.chance.randrange(len(self.running)))
            self.trained.append(work.key)
            self.known[work.key] = outcome_of(work)
            self.desk.take([self.known[work.key]])
        return [(e.trial.id, e.trial.index, e.status, e.progress, e.score) for e in self.ended]


TUNES = [
    {"trials": 20},
    {"trials": 20, "scheduler": "asha"},
    {"trials": 20, "scheduler": {"name": "asha", "mode": "promote"}},
]


@pytest.mark.parametrize("tune", TUNES, ids=["none", "stop", "promote"])
@given(st.integers(1, 6), st.randoms(use_true_random=False), st.sampled_from([(None,), (0, 1, 2)]))
@settings(max_examples=30)
def test_every_trial_ends_once_and_no_work_is_done_twice(tune, lanes, chance, folds):
    sweep = Sweeping(tune, lanes, chance, folds)
    ended = sweep.run()
    assert sorted(index for _, index, *_ in ended) == list(range(20))
    assert len(set(sweep.trained)) == len(sweep.trained) and sweep.desk.is_closed
    if "scheduler" not in tune:
        assert {status for *_, status, _, _ in ended} == {FINISHED}
    else:
        assert {status for *_, status, _, _ in ended} == {FINISHED, CUT}


@pytest.mark.parametrize(
    "tune", [*TUNES, {"trials": 16, "search": "tpe", "scheduler": "asha"}], ids=["none", "stop", "promote", "tpe"]
)  # fmt: skip
@given(st.integers(1, 6), st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=12, deadline=None)
def test_in_order_the_decisions_are_the_same_after_any_interruption(tune, lanes, chance, killed):
    undisturbed = Sweeping(tune, 6, random.Random(1), lag=8).run()
    first = Sweeping(tune, lanes, chance, lag=8)
    first.run(most=killed)
    second = Sweeping(tune, 6, chance, lag=8)
    second.known = dict(first.known)
    assert second.run() == undisturbed
    assert not set(first.known) & set(second.trained)


@given(st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_promotion_lets_at_most_its_share_go_on_and_they_are_the_best(lanes, chance):
    sweep = Sweeping(TUNES[2], lanes, chance)
    sweep.run()
    for rung, following in zip(RUNGS, (*RUNGS[1:], None), strict=True):
        came = {id_: o.score for (id_, _, at), o in sweep.known.items() if at == rung}
        went = {id_ for id_, _, at in sweep.known if at == following and id_ in came}
        best = sorted(came, key=came.get)[: max(1, len(came) // 3)]
        assert set(best) <= went  # every one of the final best; early ones may have gone besides


def test_tpe_starts_as_random_search_learns_and_repeats_nothing():
    space = {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.001, "high": 10.0, "log": True}}
    best = {}
    for search in ("random", "tpe"):
        spec = TuneSpec.model_validate({"search": search, "trials": 60, "space": space})
        wide = TuneSpec.model_validate({"search": "random", "trials": 60, "space": space})
        used = (
            TpeSearch(spec, 5, "min") if search == "tpe" else ListedSearch(configurations(spec, 5))
        )
        policy = Policy(used, rule_of(spec.scheduler, "min"), (), (None,), identity_of)
        found, configs = [], []
        while (work := policy.next(all_told=True)) is not None:
            config = work.trial.config
            score = abs(config["x"] - 0.3) + abs(config["y"] - 0.5)
            policy.tell([Outcome(work, FINISHED, 1, score)])
            found.append(score)
            configs.append(config)
        assert configs[:10] == configurations(wide, 5)[:10]
        assert len({identity_of(config) for config in configs}) == 60
        best[search] = sum(sorted(found[10:])[:10])
    assert best["tpe"] < best["random"] / 2
