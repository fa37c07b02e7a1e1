"""The keeper without Ray: what dies, what runs out of memory, and who trains together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import InterruptedRunError, StoppedError
from heliostat.plan.fuse import Company
from heliostat.plan.space import identity_of
from heliostat.storage.files import write_json
from heliostat.train.assignment import Assignment
from heliostat.tune import keeper as keeper_module
from heliostat.tune.keeper import Keeper
from heliostat.tune.ledger import Ledger
from heliostat.tune.order import Answer, Scoring
from heliostat.tune.pause import Pause
from heliostat.tune.search import ListedSearch
from heliostat.tune.sweep import Sweep
from heliostat.tune.work import FAILED, FINISHED, PAUSED, STOPPED
from tests.data.packing import plan_of

TUNE = "tune: {trials: 8, concurrency: 2, space: {model.learning_rate: {low: 0.01, high: 0.5}}}"


@dataclass
class View:
    """Keeps what it is told."""

    ended: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def trial_ended(self, record, best, num_done, num_running) -> None:
        self.ended.append((record.index, record.status))

    def changed(self, record, num_running) -> None:
        """Not kept."""

    def noted(self, text) -> None:
        self.notes.append(text)


@pytest.fixture
def kept(make_job, tmp_path):
    """A keeper over eight trials, of which up to `most` train together."""

    def keep(most: int = 1, scores: bool = False, stops: Any = (), **parts: str) -> Keeper:
        plan = plan_of(make_job(**{"tune": TUNE, **parts}))
        base = Assignment(
            job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
            prepared="", data_digest="d", code=None, code_digest="c", model_folder=None,
        )  # fmt: skip
        company = Company("all", most) if most > 1 else None
        sweep = Sweep(
            plan=plan, search=ListedSearch(plan.trials), folds=(None,), identify=identity_of,
            assign=lambda work: base, ledger=Ledger(tmp_path / "ledger", "a/1"),
            models=tmp_path / "models", checkpoints=tmp_path / "checkpoints",
            metrics_folder=tmp_path, company=lambda work: company,
            scoring=lambda best: Scoring(best.id, base, best.id) if scores else None, group=None, concurrency=2,
            stop_requested=lambda: bool(stops), deadline=None, limit="", view=View(), pause=Pause(tmp_path / "pause.json"),
        )  # fmt: skip
        return Keeper(sweep)

    return keep


def indices(order) -> list[int]:
    return [task.work.trial.index for task in order.tasks]


def finish(keeper, order) -> None:
    keeper.answered(order.number, [Answer(FINISHED, 1, 0.5, {"auc": 0.5}) for _ in order.tasks])


def scored(keeper, order) -> None:
    (side,) = order.scoring.sides
    metrics = {side: {"of": order.scoring.trial}}
    keeper.answered(order.number, [Answer(FINISHED, metrics=metrics)])


def test_of_equal_scores_the_lower_log_loss_is_best_then_the_first_trial(kept):
    keeper = kept()
    losses = iter([0.4, 0.3, 0.3, 0.5])
    while (loss := next(losses, None)) is not None:
        order = keeper.next_order()
        metrics = {"auc": 0.9, "log_loss": loss}
        keeper.answered(order.number, [Answer(FINISHED, 1, 0.9, metrics)])
    assert keeper.best.index == 1


def test_a_trial_that_ran_out_of_memory_comes_again_when_nothing_else_runs(kept):
    keeper = kept()
    first, second = keeper.next_order(), keeper.next_order()
    assert keeper.next_order() is None  # two lanes
    keeper.answered(first.number, [Answer(FAILED, error="memory", out_of_memory=True)])
    assert keeper.next_order() is None  # until the other has come to its end, untouched
    finish(keeper, second)
    alone = keeper.next_order()
    assert indices(alone) == indices(first) and alone.tasks[0].assignment.is_alone
    assert not first.tasks[0].assignment.is_alone and keeper.next_order() is not None
    finish(keeper, alone)
    assert keeper.sweep.view.ended == [(1, FINISHED), (0, FINISHED)]


def test_a_cohort_that_ran_out_of_memory_comes_again_in_halves(kept):
    keeper = kept(most=8)
    first, second = keeper.next_order(), keeper.next_order()
    assert (indices(first), indices(second)) == ([0, 1, 2, 3], [4, 5, 6, 7])  # a lane its share
    keeper.died(first.number, "memory ran out on its node", out_of_memory=True)
    assert indices(keeper.next_order()) == [0, 1]
    finish(keeper, second)
    assert indices(keeper.next_order()) == [2, 3]


def test_a_process_that_keeps_dying_fails_its_trial_alone(kept):
    keeper = kept()
    limit = keeper.sweep.plan.job.spec.limits.failures
    for _ in range(limit):
        order = keeper.next_order()
        assert indices(order) == [0]
        keeper.died(order.number, "its process died", out_of_memory=False)
    order = keeper.next_order()
    keeper.died(order.number, "its process died", out_of_memory=False)
    assert keeper.sweep.view.ended == [(0, FAILED)] and len(keeper.sweep.view.notes) == limit
    while (order := keeper.next_order()) is not None:
        finish(keeper, order)
    assert keeper.is_over and keeper.num_ended == 8
    keeper.check_end()


def test_a_process_that_dies_between_rungs_does_not_come_to_the_first_again(kept):
    asha = (
        "tune: {trials: 4, concurrency: 1, scheduler: asha, space: {model.max_depth: [1, 2, 3, 4]}}"
    )
    keeper = kept(tune=asha, train="train: {rounds: 9}")
    order = keeper.next_order()
    assert order.tasks[0].rungs == (1, 3)
    assert keeper.paused(order.number, [Answer(PAUSED, 1, 0.7, {"auc": 0.7})])
    keeper.died(order.number, "its process died", out_of_memory=False)
    again = keeper.next_order()
    assert again.tasks[0].rungs == (3,) and again.tasks[0].work.until == 3
    assert keeper.paused(again.number, [Answer(PAUSED, 3, 0.8, {"auc": 0.8})])
    finish(keeper, again)
    record = keeper.sweep.ledger.records[again.tasks[0].work.trial.id]
    assert record.status == FINISHED and record.rungs == {1: 0.7, 3: 0.8}


@pytest.mark.parametrize("survives", [True, False])
def test_lanes_score_the_best_model_side_by_side_when_no_trial_is_left(kept, survives):
    keeper = kept(scores=True)
    while (order := keeper.next_order()).scoring is None:
        finish(keeper, order)
    assert len(keeper.sweep.view.ended) == 8
    first, second = order, keeper.next_order()
    assert {first.scoring.trial, second.scoring.trial} == {keeper.best.id}
    assert keeper.next_order() is None and not keeper.is_over  # both lanes are waited for
    keeper.died(first.number, "its process died", False) if not survives else scored(keeper, first)
    scored(keeper, second)
    scored(keeper, keeper.next_order())
    if survives:
        assert list(keeper.scored.metrics.items()) == [
            (side, {"of": keeper.best.id}) for side in ("train", "validation", "test")
        ]
    else:
        assert keeper.scored is None  # whoever runs the sweep scores it elsewhere
    assert keeper.is_over and keeper.next_order() is None
    keeper.check_end()


def test_a_lane_that_finds_no_trial_scores_ahead_and_again_if_a_better_one_comes(kept):
    keeper = kept(scores=True)
    orders = [keeper.next_order(), keeper.next_order()]
    while len(keeper.sweep.view.ended) < 7:
        finish(keeper, orders.pop(0))
        orders.append(keeper.next_order())
    last, ahead = orders
    assert last.tasks and ahead.scoring.sides == ("train",)
    model = keeper.sweep.models / keeper.best.id
    write_json(model / DESCRIPTION, {})
    keeper.answered(last.number, [Answer(FINISHED, 1, 0.6, {"auc": 0.6})])
    assert keeper.best.id == last.tasks[0].work.trial.id != ahead.scoring.trial
    assert model.exists()  # a lane may be reading it
    scored(keeper, ahead)
    assert not model.exists() and not keeper.is_over
    while (order := keeper.next_order()) is not None:
        assert order.scoring.trial == keeper.best.id
        scored(keeper, order)
    assert keeper.scored.metrics["train"] == {"of": keeper.best.id}


def test_what_is_in_training_commits_a_checkpoint_before_a_sweep_stops(kept, tmp_path):
    stops: list[str] = []
    keeper = kept(stops=stops)
    orders = [keeper.next_order(), keeper.next_order()]
    assert not keeper.should_end()
    stops.append("now")
    assert not keeper.should_end() and (tmp_path / "pause.json").is_file()
    assert keeper.next_order() is None
    finish(keeper, orders[0])  # one has come to its end just then, and counts
    assert not keeper.should_end()
    keeper.answered(orders[1].number, [Answer(STOPPED, 1, 0.5)])
    assert keeper.should_end()
    with pytest.raises(StoppedError, match="stopped after 1 of 8 trials"):
        keeper.check_end()
    again = kept()  # what was stopped is no outcome: it comes again
    assert indices(again.next_order()) == indices(orders[1])


@pytest.mark.parametrize("is_placed", [True, False])
def test_a_trial_that_hangs_is_told_from_one_without_a_place(kept, monkeypatch, is_placed):
    monkeypatch.setattr(keeper_module, "placement_sentence", lambda group: "no place")
    keeper = kept(limits="limits: {stall_minutes: 0.0001}")
    order = keeper.next_order()
    keeper.placed = {order.number} if is_placed else set()
    deadline = time.monotonic() + 60
    while not keeper.should_end():
        assert time.monotonic() < deadline
    why = "the process of trial 0 hangs or is stopped" if is_placed else "no place"
    with pytest.raises(InterruptedRunError, match=why):
        keeper.check_end()


def test_a_full_disk_ends_the_sweep_and_fails_no_trial(kept):
    keeper = kept()
    order, _ = keeper.next_order(), keeper.next_order()
    full = "/s: cannot be written: No space left on device"
    keeper.answered(order.number, [Answer(FAILED, error=full, interrupted=True)])
    assert keeper.should_end() and keeper.next_order() is None
    assert keeper.num_failed == 0 and not keeper.sweep.ledger.records
    with pytest.raises(
        InterruptedRunError, match="No space left on device; 0 of 8 trials are done"
    ):
        keeper.check_end()
