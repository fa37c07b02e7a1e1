"""Which work comes next, and which trials have ended: a pure function of the outcomes told, in
the order they were told. No clock, no Ray, no file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heliostat.plan.space import Configuration
from heliostat.tune.halving import CUTS, ON, WAITS, Rule
from heliostat.tune.search import Observation, Search
from heliostat.tune.work import CUT, FAILED, FINISHED, Ended, Outcome, Trial, Work


@dataclass
class _Course:
    """How far a trial has come: the rung it is bound for, and what its folds have told there."""

    trial: Trial
    rung: int = 0
    told: dict[int | None, Outcome] = field(default_factory=dict)
    has_ended: bool = False


class Policy:
    """A search and a rule, over trials in folds (None alone: without)."""

    def __init__(
        self,
        search: Search,
        rule: Rule,
        rungs: Sequence[int],
        folds: Sequence[int | None],
        identify: Callable[[Configuration], str],
    ) -> None:
        self._search, self._rule, self._rungs, self._folds = search, rule, rungs, folds
        self._identify = identify
        self._ready: deque[Work] = deque()
        self._courses: dict[str, _Course] = {}
        self._waiting: dict[int, _Course] = {}
        self._next_index = 0
        self._is_exhausted = self._has_finished = False

    def next(self, all_told: bool) -> Work | None:
        """The work to begin now; None if there is none until more is told. When all is told that
        was begun, and no trial has come to its end, the best one that waits goes on.
        """
        while self._ready:
            work = self._ready.popleft()
            if not self._courses[work.trial.id].has_ended:  # another fold may have failed
                return work
        found = self._promoted(0) or self._new_trial()
        if found is None and all_told and not self._has_finished:
            found = self._promoted(1)
        return found

    def tell(self, outcomes: Sequence[Outcome]) -> list[Ended]:
        """Take outcomes that came at once: all are seen before any of them is judged."""
        ended, arrived = [], []
        for outcome in outcomes:
            course = self._courses[outcome.work.trial.id]
            if course.has_ended:
                continue
            if outcome.status == FAILED:
                ended.append(self._failed(course, outcome))
                continue
            course.told[outcome.work.fold] = outcome
            if len(course.told) < len(self._folds):
                continue
            if all(told.status == FINISHED for told in course.told.values()):
                ended.append(self._ended(course, FINISHED))
            else:
                arrived.append((course, outcome.verdict))
                score = _mean_score(course)
                self._rule.arrived(course.rung, course.trial.index, score)
                self._search.told(
                    Observation(course.trial.config, score, outcome.progress, is_whole=False)
                )
        for course, known in arrived:
            verdict = self._rule.verdict(course.rung, course.trial.index)
            if verdict == WAITS:
                self._waiting[course.trial.index] = course
            elif (known or verdict) == ON:
                self._go_on(course)
            else:
                assert (known or verdict) == CUTS
                ended.append(self._ended(course, CUT))
        return ended

    def continues(self, trial: Trial) -> bool:
        """Whether the next work goes on with `trial`."""
        return bool(self._ready) and self._ready[0].trial.id == trial.id

    def close(self) -> list[Ended]:
        """Nothing more will be told: those that wait have ended."""
        waiting, self._waiting = list(self._waiting.values()), {}
        return [self._ended(course, CUT) for course in waiting]

    def _promoted(self, least: int) -> Work | None:
        index = self._rule.promoted(least)
        if index is None:
            return None
        self._go_on(self._waiting.pop(index))
        return self._ready.popleft()

    def _new_trial(self) -> Work | None:
        while not self._is_exhausted:
            index = self._next_index
            config = self._search.configuration(index)
            if config is None:
                self._is_exhausted = True
                return None
            self._next_index += 1
            identity = self._identify(config)
            if identity in self._courses:
                continue  # another way to write the same job
            course = _Course(Trial(identity, index, config))
            self._courses[identity] = course
            self._begin(course)
            return self._ready.popleft()
        return None

    def _go_on(self, course: _Course) -> None:
        course.rung += 1
        course.told = {f: told for f, told in course.told.items() if told.status == FINISHED}
        self._begin(course, first=True)

    def _begin(self, course: _Course, first: bool = False) -> None:
        until = self._rungs[course.rung] if course.rung < len(self._rungs) else None
        works = [Work(course.trial, f, until) for f in self._folds if f not in course.told]
        if first:
            self._ready.extendleft(reversed(works))
        else:
            self._ready.extend(works)

    def _failed(self, course: _Course, outcome: Outcome) -> Ended:
        course.has_ended = True
        self._search.told(Observation(course.trial.config, math.nan, 0, False))
        return Ended(
            course.trial, FAILED, outcome.progress, outcome.score, outcome.metrics,
            error=outcome.error,
        )  # fmt: skip

    def _ended(self, course: _Course, status: str) -> Ended:
        course.has_ended = True
        told = [course.told[fold] for fold in self._folds]
        score = _mean_score(course)
        progress = max(outcome.progress for outcome in told)
        whole = status == FINISHED
        self._has_finished = self._has_finished or whole
        self._search.told(Observation(course.trial.config, score, progress, whole))
        in_folds = len(told) > 1
        return Ended(
            course.trial, status, progress, score, _means(told),
            uncertainty=_standard_error(told) if in_folds else told[0].uncertainty,
            folds=tuple(outcome.metrics for outcome in told) if in_folds else (),
            lengths=tuple(outcome.progress for outcome in told),
        )  # fmt: skip


def _mean_score(course: _Course) -> float:
    return float(np.mean([outcome.score for outcome in course.told.values()]))


def _standard_error(told: Sequence[Outcome]) -> float:
    scores = [outcome.score for outcome in told]
    return float(np.std(scores, ddof=1) / math.sqrt(len(scores)))


def _means(told: Sequence[Outcome]) -> Mapping[str, Any]:
    if len(told) == 1:
        return told[0].metrics
    return {
        name: float(np.mean([outcome.metrics[name] for outcome in told]))
        for name, value in told[0].metrics.items()
        if isinstance(value, (int, float))
    }
