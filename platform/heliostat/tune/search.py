"""Which configuration a trial gets: from a list, or by the tree-structured Parzen estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
        self._optuna, self._space, self._seed = optuna, tune.space, seed
        self.num_trials = tune.trials or 0
        self._direction: Any = "maximize" if goal == "max" else "minimize"
        self._distributions = {k: _distribution(optuna, d) for k, d in tune.space.items()}
        self._issued: dict[str, Any] = {}  # what the estimator knows of each, by identity
        self._earlier = [self._seen(o) for o in earlier if self._fits(o.config)]
        self._told: set[str] = set()

    def configuration(self, index: int) -> Configuration | None:
        """See `Search`."""
        if index >= self.num_trials:
            return None
        found = self._suggested(index) or self._drawn(index)
        if found is not None:
            self.take_up(found)
        return found

    def take_up(self, config: Configuration) -> None:
        """A trial runs with a configuration."""
        states = self._optuna.trial.TrialState
        self._issued[identity_of(config)] = self._frozen(config, state=states.RUNNING)

    def told(self, observation: Observation) -> None:
        """See `Search`."""
        identity = identity_of(observation.config)
        if identity in self._issued:
            self._told.add(identity)
            self._issued[identity] = self._seen(observation)

    def _suggested(self, index: int) -> Configuration | None:
        """A draw by the estimator that was not tried before, once it knows enough."""
        if len(self._earlier) + len(self._told) < STARTUP_TRIALS:
            return None
        study = self._optuna.create_study(direction=self._direction)
        study.add_trials([*self._earlier, *self._issued.values()])
        for attempt in range(MAX_SUGGESTIONS):
            sampler_seed = int(uniform(self._seed, "tpe", index, attempt) * 2**32)
            study.sampler = self._optuna.samplers.TPESampler(seed=sampler_seed)
            trial = study.ask()
            config: Configuration = {}
            for key, dimension in self._space.items():
                if is_active(dimension, config):
                    config[key] = _suggestion(trial, key, dimension)
            if identity_of(config) not in self._issued:
                return config
            study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return None

    def _drawn(self, index: int) -> Configuration | None:
        """Random search's draw for the trial."""
        for attempt in range(MAX_REDRAWS):
            drawn = drawn_configuration(self._space, self._seed, index, attempt)
            if identity_of(drawn) not in self._issued:
                return drawn
        return None

    def _seen(self, observation: Observation) -> Any:
        """An observation as the estimator takes it: one that was cut ranks by how far it came."""
        states = self._optuna.trial.TrialState
        if not math.isfinite(observation.score):
            return self._frozen(observation.config, state=states.FAIL)
        if observation.is_whole:
            return self._frozen(observation.config, value=observation.score)
        steps = {observation.progress: observation.score}
        return self._frozen(observation.config, state=states.PRUNED, intermediate_values=steps)

    def _frozen(self, config: Configuration, **told: Any) -> Any:
        return self._optuna.trial.create_trial(
            params={key: _code(self._space[key], value) for key, value in config.items()},
            distributions={key: self._distributions[key] for key in config},
            **told,
        )

    def _fits(self, config: Configuration) -> bool:
        active = [key for key, dimension in self._space.items() if is_active(dimension, config)]
        return set(active) == set(config) and all(
            _holds(self._space[key], value) for key, value in config.items()
        )


def within(space: Mapping[str, Dimension], config: Configuration) -> Configuration:
    """What of a configuration lies in the space."""
    return {k: v for k, v in config.items() if k in space and _holds(space[k], v)}


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    kinds = optuna.distributions
    if isinstance(dimension, Choice):
        return kinds.CategoricalDistribution(range(len(dimension.values)))
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.whole:
        return kinds.IntDistribution(low, high, log=dimension.log, step=int(step or 1))
    return kinds.FloatDistribution(low, high, log=dimension.log, step=step)


def _suggestion(trial: Any, key: str, dimension: Dimension) -> Any:
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


class Remembered:
    """The estimator, with the configurations that it chose before: what it knew then is not to be
    had again, for outcomes came by the clock. `keep` writes each new one down.
    """

    def __init__(
        self,
        search: TpeSearch,
        chosen: Mapping[int, Configuration],
        keep: Callable[[int, Configuration], None],
    ) -> None:
        self._search, self._chosen, self._keep = search, chosen, keep

    def configuration(self, index: int) -> Configuration | None:
        """See `Search`."""
        before = self._chosen.get(index)
        if before is not None and index < self._search.num_trials:
            self._search.take_up(before)
            return before
        config = self._search.configuration(index)
        if config is not None:
            self._keep(index, config)
        return config

    def told(self, observation: Observation) -> None:
        """See `Search`."""
        self._search.told(observation)


class StartingFrom:
    """Another search, after one configuration that earlier results commend."""

    def __init__(self, first: Configuration, search: Search, num_trials: int) -> None:
        self._first, self._search, self._num_trials = first, search, num_trials
        self._behind = 1  # how far the other search's count lags: it may draw the first one too

    def configuration(self, index: int) -> Configuration | None:
        """See `Search`."""
        if index >= self._num_trials:
            return None
        if index == 0:
            return self._first
        found = self._search.configuration(index - self._behind)
        if found is not None and identity_of(found) == identity_of(self._first):
            self._behind = 0
            found = self._search.configuration(index)
        return found

    def told(self, observation: Observation) -> None:
        """See `Search`."""
        self._search.told(observation)
