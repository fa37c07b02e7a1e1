"""Keeps a sweep: hands orders to lanes, writes what they answer into the ledger, keeps the best
trial's model, and knows when the sweep must end. No Ray: whoever drives lanes asks it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import InterruptedRunError, StoppedError, TrainError
from heliostat.storage.folders import remove_folder
from heliostat.train.stopping import better
from heliostat.train.workers import placement_sentence
from heliostat.tune.best import BestScores, Scored
from heliostat.tune.desk import Desk
from heliostat.tune.halving import rule_of
from heliostat.tune.ledger import TrialRecord
from heliostat.tune.order import Answer, Order, Task
from heliostat.tune.policy import Policy
from heliostat.tune.sweep import Sweep
from heliostat.tune.work import CUT, FAILED, FINISHED, PAUSED, STOPPED, Ended, Outcome, Work

MOST_HELD = 4_096
PAUSE_SECONDS = 30.0  # for lanes to commit a checkpoint when the sweep must end
LAG_PER_LANE = 2  # decisions in order wait for stragglers, but not for the very next outcome


class Keeper:
    """The state of a running sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        plan = sweep.plan
        lag = None
        if sweep.spec.deterministic:
            lag = sweep.ledger.agree({"lag": LAG_PER_LANE * sweep.concurrency})["lag"]
        policy = Policy(
            sweep.search, rule_of(sweep.spec.scheduler, sweep.goal), plan.rungs, sweep.folds,
            sweep.identify,
        )  # fmt: skip
        self._desk = Desk(policy, self._known, self._trial_ended, lag)
        self._running: dict[int, Order] = {}
        self._held: deque[Work] = deque()  # begun at the desk, but of another cohort's shape
        self._again: deque[Order] = deque()
        self._alone: deque[Order] = deque()
        self._deaths: Counter[tuple[str, ...]] = Counter()
        self._written: set[str] = set()
        self._num_orders = 0
        self.num_failed = self.num_ended = self.num_reused = 0
        self.best: TrialRecord | None = None
        self._scores = BestScores(sweep.scoring)
        self.why_ended = self._why_pausing = ""
        self._pausing_since = 0.0
        self.placed: set[int] = set()  # the orders whose process is up
        self._last_error = self._interruption = ""
        self._moved = time.time()

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended."""
        return self._all_ended and not self._running

    @property
    def scored(self) -> Scored | None:
        """The scores of the best trial's model on all sides, if lanes have found them."""
        return None if self.best is None else self._scores.of(self.best)

    def next_order(self) -> Order | None:
        """What a free lane begins now; None: nothing, or not yet."""
        if self.why_ended or self._why_pausing or len(self._running) >= self.sweep.concurrency:
            return None
        if self._alone:  # others first come to their ends, and then begin after it
            return None if self._running else self._begin(self._alone.popleft().tasks)
        if self._again:
            return self._begin(self._again.popleft().tasks)
        works = self._gathered()
        if works:
            return self._begin(tuple(self._task(work) for work in works))
        return self._scoring_order()

    def paused(self, number: int, answers: Sequence[Answer]) -> bool:
        """An order waits in its lane at a rung. Whether it goes on there."""
        order = self._running[number]
        self._take(order, answers)
        going = [self._desk.continuation(task.work) for task in order.tasks]
        if not all(going):
            del self._running[number]
            return False
        # Should the process die, what it has passed is behind it.
        tasks = [
            replace(task, work=work, rungs=self._rungs_of(work))
            for task, work in zip(order.tasks, going, strict=True)
            if work is not None
        ]
        self._running[number] = Order(number, tuple(tasks))
        return True

    def answered(self, number: int, answers: Sequence[Answer]) -> None:
        """An order has come to its end. What ran out of memory is tried again, alone."""
        order = self._running.pop(number, None)
        if order is None:
            return  # cut a moment ago
        if (told := next((a.error for a in answers if a.interrupted), None)) is not None:
            self.interrupt(told)
            return
        if any(answer.status == STOPPED for answer in answers):
            return  # it goes on from its checkpoint when the sweep does
        if order.scoring is not None:
            self._scores.take(order.scoring, answers[0])
            self._drop_losers({order.scoring.trial})
            return
        if any(answer.out_of_memory for answer in answers) and self._may_come_back(order):
            self._with_more_memory(order)
            return
        self._take(order, answers)

    def interrupt(self, told: str) -> None:
        """The sweep cannot go on, for a reason that is no trial's own: what is done is kept."""
        self.why_ended, self._interruption = self.why_ended or "interruption", told

    def died(self, number: int, error: str, out_of_memory: bool) -> None:
        """An order's process has died: it begins again from its last checkpoint, up to
        `limits.failures` times; alone, if memory ran out.
        """
        order = self._running.pop(number, None)
        if order is None:
            return
        if order.scoring is not None:
            self._drop_losers({order.scoring.trial})
            return
        self._moved = time.time()
        if self._may_come_back(order):
            self.sweep.view.noted(f"trial {order.tasks[0].work.trial.index}: {error}; once more")
            if out_of_memory:
                self._with_more_memory(order)
            else:
                self._again.append(order)
            return
        self._take(order, [Answer(FAILED, error=error) for _ in order.tasks])

    def should_end(self) -> bool:
        """Whether the sweep must end before its last trial, and why."""
        sweep = self.sweep
        allowed = max(
            1, math.ceil(sweep.plan.job.spec.limits.failed_trials * sweep.plan.num_trials)
        )
        if self.num_failed > allowed:
            self.why_ended = "failures"
        elif self._all_ended and not self._running:
            return False
        elif sweep.deadline is not None and time.monotonic() > sweep.deadline:
            self._pause("time")
        elif sweep.stop_requested():
            self._pause("stop")
        elif time.time() - self._last_moved() > self._stall_seconds:
            self.why_ended = "stall"
        return bool(self.why_ended)

    def _pause(self, why: str) -> None:
        """Let what is in training commit a checkpoint, and end."""
        if not self._why_pausing:
            self._why_pausing, self._pausing_since = why, time.monotonic()
            self.sweep.pause.ask()
        trains = any(order.tasks for order in self._running.values())
        if not trains or time.monotonic() - self._pausing_since > PAUSE_SECONDS:
            self.why_ended = self._why_pausing

    def check_end(self) -> None:
        """Raise why the sweep ended early, if it did."""
        done = f"{self.num_ended + self.num_reused} of {self.sweep.plan.num_trials} trials"
        if self.why_ended == "stop":
            best = "" if self.best is None else f"; the best so far has {self.best.score:.6g}"
            raise StoppedError(f"stopped after {done}{best}")
        if self.why_ended == "stall":
            raise InterruptedRunError(
                f"no trial has moved for {self._stall_seconds / 60:g} minutes "
                f"(`limits.stall_minutes`): {self._why_stalled()}"
            )
        if self.why_ended == "interruption":
            raise InterruptedRunError(f"{self._interruption}; {done} are done")
        if self.why_ended == "time":
            raise InterruptedRunError(f"the time limit `{self.sweep.limit}` is over")
        if self.num_failed and (self.why_ended or self.num_failed == self.num_ended):
            raise TrainError(
                f"{self.num_failed} of {self.num_ended} trials failed (`limits.failed_trials`); "
                f"the last one: {self._last_error}"
            )
        if not self.is_over:
            raise InterruptedRunError(f"only {done} ended")

    def _why_stalled(self) -> str:
        stuck = [order for number, order in self._running.items() if number in self.placed]
        if not stuck:
            return placement_sentence(self.sweep.group)
        trials = sorted({task.work.trial.index for order in stuck for task in order.tasks})
        named = ", ".join(str(index) for index in trials) or "that scores the best model"
        return f"the process of trial {named} hangs or is stopped, or a step takes longer than that"

    def _gathered(self) -> list[Work]:
        """The next work, and those that can train together with it: as many as leave the other
        lanes their share.
        """
        work = self._held.popleft() if self._held else self._desk.next()
        if work is None:
            return []
        sweep, works = self.sweep, [work]
        company = sweep.company(work)
        if company is None:
            return works
        free = sweep.concurrency - len(self._running)
        size = min(company.most, max(1, -(-self._num_left // free)))
        held, self._held = self._held, deque()
        while len(works) < size and len(self._held) < MOST_HELD:
            other = held.popleft() if held else self._desk.next()
            if other is None:
                break
            (works if sweep.company(other) == company else self._held).append(other)
        self._held.extend(held)
        return works

    def _with_more_memory(self, order: Order) -> None:
        """Memory ran out: half of a cohort has more; one trial has more when it is alone."""
        half = len(order.tasks) // 2
        if half:
            self._again.extend(Order(0, part) for part in (order.tasks[:half], order.tasks[half:]))
        else:
            tasks = [
                replace(t, assignment=replace(t.assignment, is_alone=True)) for t in order.tasks
            ]
            self._alone.append(Order(0, tuple(tasks)))

    def _begin(self, tasks: tuple[Task, ...]) -> Order:
        self._num_orders += 1
        order = self._running[self._num_orders] = Order(self._num_orders, tasks)
        self._moved = time.time()
        self._tell_change(tasks[0].work)
        return order

    def _scoring_order(self) -> Order | None:
        """No trial is left to begin: a lane that is warm scores the best one's model."""
        if self.best is None or not self._num_orders or not (self._all_ended or self._num_left < 1):
            return None
        scoring = self._scores.next(self.best)
        if scoring is None:
            return None
        self._num_orders += 1
        order = self._running[self._num_orders] = Order(self._num_orders, (), scoring)
        return order

    def _tell_change(self, work: Work) -> None:
        trial = work.trial
        record = self.sweep.ledger.records.get(trial.id)
        record = record or TrialRecord(trial.id, trial.index, trial.config)
        self.sweep.view.changed(record, self._num_running)

    @property
    def _num_running(self) -> int:
        return sum(len(order.tasks) for order in self._running.values())

    def _task(self, work: Work) -> Task:
        return Task(work, self.sweep.assign(work), self._rungs_of(work))

    def _rungs_of(self, work: Work) -> tuple[int, ...]:
        """Where a work waits in its lane; a paced one leaves it instead."""
        if self.sweep.is_paced or work.until is None:
            return ()
        return tuple(rung for rung in self.sweep.plan.rungs if rung >= work.until)

    def _may_come_back(self, order: Order) -> bool:
        names = tuple(task.name for task in order.tasks)
        self._deaths[names] += 1
        return self._deaths[names] <= self.sweep.plan.job.spec.limits.failures

    def _take(self, order: Order, answers: Sequence[Answer]) -> None:
        self._moved = time.time()
        outcomes = [
            self._outcome(task.work, answer)
            for task, answer in zip(order.tasks, answers, strict=True)
        ]
        for outcome in outcomes:
            self._arrived(outcome)
        self._desk.take(outcomes)

    def _outcome(self, work: Work, answer: Answer) -> Outcome:
        status, error = answer.status, answer.error
        if status == FINISHED and not math.isfinite(answer.score):
            status = FAILED
            error = f"its {self.sweep.plan.job.spec.objective_metric} is not finite"
        return Outcome(
            work, status, answer.progress, answer.score, answer.metrics, answer.seconds, error,
            answer.uncertainty,
        )  # fmt: skip

    def _arrived(self, outcome: Outcome) -> None:
        """Write what no decision can change."""
        work = outcome.work
        if outcome.status == PAUSED or (work.fold is not None and outcome.status == FINISHED):
            self.sweep.ledger.outcome(outcome)
            self._tell_change(work)
        elif work.fold is None:
            seconds = self.sweep.ledger.seconds(work.trial.id) + outcome.seconds
            self._write(
                Ended(
                    work.trial, outcome.status, outcome.progress, outcome.score, outcome.metrics,
                    seconds, outcome.error, outcome.uncertainty, lengths=(outcome.progress,),
                )
            )  # fmt: skip

    def _known(self, work: Work) -> Outcome | None:
        return self.sweep.ledger.known(work, honours_verdicts=not self.sweep.spec.deterministic)

    def _trial_ended(self, ended: Ended) -> None:
        """The desk has heard all of a trial, which the ledger may have known before."""
        if ended.trial.id in self._written:
            return
        record = self.sweep.ledger.records.get(ended.trial.id)
        if record is not None and record.status == ended.status and ended.status != FAILED:
            self.num_reused += 1
            self._keep_best(record)
            self.sweep.view.changed(record, self._num_running)
            return
        seconds = self.sweep.ledger.seconds(ended.trial.id)
        self._write(replace(ended, seconds=seconds))

    def _write(self, ended: Ended) -> None:
        sweep = self.sweep
        record = sweep.ledger.final(ended)
        self._written.add(ended.trial.id)
        self.num_ended += 1
        self.num_failed += ended.status == FAILED
        self._last_error = ended.error or self._last_error
        remove_folder(sweep.checkpoints / ended.trial.id)
        self._keep_best(record)
        num_done = self.num_ended + self.num_reused
        sweep.view.trial_ended(record, self.best, num_done, self._num_running)

    def _keep_best(self, record: TrialRecord) -> None:
        """Of all models only the best trial's stays: of those that went to their end; of cut ones
        only if there is none.
        """
        best = self.best
        if record.status in (FINISHED, CUT) and record.score is not None:
            ranks = {CUT: 0, FINISHED: 1}
            if best is None or ranks[record.status] > ranks[best.status]:
                self.best = record
            elif ranks[record.status] == ranks[best.status] and best.score is not None:
                tie = self.sweep.plan.job.spec.tie_metric
                ties = [None if tie is None else r.metrics.get(tie) for r in (record, best)]
                first = (record.score, ties[0]) == (best.score, ties[1])
                wins = better(record.score, best.score, self.sweep.goal, *ties)
                self.best = record if wins or (first and record.index < best.index) else best
        self._drop_losers({record.id, best.id if best else record.id})

    def _drop_losers(self, trials: set[str]) -> None:
        """Remove the models of those that are not the best, nor being scored at the moment."""
        wanted = {order.scoring.trial for order in self._running.values() if order.scoring}
        if self.best is not None:
            wanted.add(self.best.id)
        for loser in trials - wanted:
            remove_folder(self.sweep.models / loser, DESCRIPTION)

    @property
    def _all_ended(self) -> bool:
        trains = any(order.tasks for order in self._running.values())
        return self._desk.is_closed and not (trains or self._held)

    @property
    def _num_left(self) -> int:
        """How many trainings have not begun, as far as the plan tells."""
        ended = self.num_ended + self.num_reused
        begun = sum(len(order.tasks) for order in self._running.values())
        return self.sweep.plan.num_trials * len(self.sweep.folds) - ended - begun

    @property
    def _stall_seconds(self) -> float:
        return self.sweep.plan.job.spec.limits.stall_minutes * 60

    def _last_moved(self) -> float:
        """When a trial last reported here, or wrote to its own metric file."""
        if time.time() - self._moved > self._stall_seconds:
            files = self.sweep.metrics_folder.glob("trial-*.jsonl")
            self._moved = max([self._moved, *(path.stat().st_mtime for path in files)])
        return self._moved
