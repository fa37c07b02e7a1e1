"""Which configuration a trial gets: from a list, or by the tree-structured Parzen estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from heliostat.plan.space import (
    MAX_REDRAWS,
    Configuration,
    drawn_configuration,
    identity_of,
    is_active,
    uniform,
)
from heliostat.spec.metrics import Goal
from heliostat.spec.tune import Choice, Dimension, TuneSpec

STARTUP_TRIALS = 10
MAX_SUGGESTIONS = 20


@dataclass(frozen=True)
class Observation:
    """What a trial has shown: its score at its end, or where it was cut."""

    config: Configuration
    score: float
    progress: int
    is_whole: bool


class Search(Protocol):
    """Chooses configurations by what it was told before, and by nothing else."""

    def configuration(self, index: int) -> Configuration | None:
        """The configuration of trial `index`, asked in order; None: there are no more."""

    def told(self, observation: Observation) -> None:
        """A trial has ended."""


class ListedSearch:
    """Configurations known ahead: a grid, or random draws."""

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        self._configurations = configurations

    def configuration(self, index: int) -> Configuration | None:
        """See `Search`."""
        return self._configurations[index] if index < len(self._configurations) else None

    def told(self, observation: Observation) -> None:
        """See `Search`: nothing follows from it."""


class TpeSearch:
    """The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) in Optuna's hands.
    The first ten trials are random search's own; each further one is drawn by a sampler seeded
    with (seed, index), from what was told until then. Trials that still run count as bad ones,
    so that the next is tried elsewhere.
    """

    def __init__(
        self, tune: TuneSpec, seed: int, goal: Goal, earlier: Sequence[Observation] = ()
    ) -> None:
        import optuna  # half a second of import, which other searches do without

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._space, self._seed, self._num_trials = tune.space, seed, tune.trials or 0
        self._study = optuna.create_study(direction="maximize" if goal == "max" else "minimize")
        self._asked: dict[str, Any] = {}
        self._num_told = 0
        for observation in earlier:
            if self._fits(observation.config):
                self._enter(observation.config)
                self.told(observation)
        self._asked.clear()  # what was tried elsewhere may be tried here

    def configuration(self, index: int) -> Configuration | None:
        """See `Search`."""
        if index >= self._num_trials:
            return None
        if self._num_told >= STARTUP_TRIALS:
            for attempt in range(MAX_SUGGESTIONS):
                if (found := self._suggested(index, attempt)) is not None:
                    return found
        for attempt in range(MAX_REDRAWS):
            drawn = drawn_configuration(self._space, self._seed, index, attempt)
            if identity_of(drawn) not in self._asked:
                return self._enter(drawn)
        return None

    def told(self, observation: Observation) -> None:
        """See `Search`."""
        trial = self._asked.get(identity_of(observation.config))
        if trial is None:
            return
        self._num_told += 1
        states = self._optuna.trial.TrialState
        if not math.isfinite(observation.score):
            self._study.tell(trial, state=states.FAIL)
        elif observation.is_whole:
            self._study.tell(trial, observation.score)
        else:
            trial.report(observation.score, observation.progress)
            self._study.tell(trial, state=states.PRUNED)

    def _suggested(self, index: int, attempt: int) -> Configuration | None:
        """A draw by the estimator; None if it was tried before."""
        sampler_seed = int(uniform(self._seed, "tpe", index, attempt) * 2**32)
        self._study.sampler = self._optuna.samplers.TPESampler(seed=sampler_seed)
        trial = self._study.ask()
        config = self._drawn(trial)
        identity = identity_of(config)
        if identity in self._asked:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            return None
        self._asked[identity] = trial
        return config

    def _enter(self, config: Configuration) -> Configuration:
        """Make the study draw a configuration that was chosen elsewhere."""
        self._study.enqueue_trial(
            {key: _code(self._space[key], value) for key, value in config.items()}
        )
        trial = self._study.ask()
        self._drawn(trial)
        self._asked[identity_of(config)] = trial
        return config

    def _drawn(self, trial: Any) -> Configuration:
        config: Configuration = {}
        for key, dimension in self._space.items():
            if is_active(dimension, config):
                config[key] = _drawn_value(trial, key, dimension)
        return config

    def _fits(self, config: Configuration) -> bool:
        active = [key for key, dimension in self._space.items() if is_active(dimension, config)]
        return set(active) == set(config) and all(
            _holds(self._space[key], value) for key, value in config.items()
        )


def within(space: Mapping[str, Dimension], config: Configuration) -> Configuration:
    """What of a configuration lies in the space."""
    return {k: v for k, v in config.items() if k in space and _holds(space[k], v)}


def _drawn_value(trial: Any, key: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return dimension.values[trial.suggest_categorical(key, range(len(dimension.values)))]
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.whole:
        return trial.suggest_int(key, low, high, log=dimension.log, step=int(step or 1))
    return trial.suggest_float(key, low, high, log=dimension.log, step=step)


def _code(dimension: Dimension, value: Any) -> Any:
    """A value as the study holds it: of a choice its place, for choices may be lists."""
    return dimension.values.index(value) if isinstance(dimension, Choice) else value


def _holds(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and dimension.low <= value <= dimension.high


class StartingFrom:
    """Another search, after one configuration that earlier results commend."""

    def __init__(self, first: Configuration, search: Search, num_trials: int) -> None:
        self._first, self._search, self._num_trials = first, search, num_trials

    def configuration(self, index: int) -> Configuration | None:
        """See `Search`."""
        if index >= self._num_trials:
            return None
        return self._first if index == 0 else self._search.configuration(index - 1)

    def told(self, observation: Observation) -> None:
        """See `Search`."""
        self._search.told(observation)
