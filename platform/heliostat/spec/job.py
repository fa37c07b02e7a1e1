"""The job file as a value. A key enters the contract before it enters this package."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from heliostat.spec.base import Spec
from heliostat.spec.data import DataSpec
from heliostat.spec.metrics import DEFAULT_OBJECTIVE, METRICS, TIE_BREAKER, Goal
from heliostat.spec.model import Model
from heliostat.spec.scale import LimitsSpec, ScaleSpec
from heliostat.spec.short import short_for
from heliostat.spec.site import Cluster
from heliostat.spec.train import TrainSpec
from heliostat.spec.tune import TuneSpec

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")]

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ObjectiveSpec(Spec):
    """The metric, on validation, that early stopping, search and promotion go by."""

    metric: str
    goal: Literal["min", "max"] | None = None


class CodeSpec(Spec):
    """Own Python beside the job file: packed, digested, kept with the model; and what files of
    other kinds it reads, by patterns such as `*.json`.
    """

    path: str = "."
    include: Annotated[tuple[str, ...], Field(strict=False)] = ()
    requirements: str | None = None

    @property
    def patterns(self) -> tuple[str, ...]:
        """Which files of the folder are code."""
        return ("*.py", *self.include)


class TrackSpec(Spec):
    """Where results are mirrored."""

    mlflow: str | None = None
    register_: str | None = Field(default=None, alias="register")


class JobSpec(Spec):
    """One job: data, model, training, search and cluster."""

    heliostat: Literal[1] = 1
    name: Name
    labels: dict[str, str] = {}
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    storage: str | None = None
    objective: Annotated[ObjectiveSpec, short_for("metric", ObjectiveSpec)] | None = None
    metrics: Annotated[tuple[str, ...], Field(strict=False)] = ()
    code: CodeSpec | None = None
    secrets: Annotated[tuple[Variable, ...], Field(strict=False)] = ()
    data: DataSpec
    model: Annotated[Model, short_for("kind", Model)]
    train: TrainSpec = TrainSpec()
    scale: ScaleSpec = ScaleSpec()
    limits: LimitsSpec = LimitsSpec()
    tune: TuneSpec | None = None
    track: TrackSpec = TrackSpec()
    cluster: str | Cluster | None = None

    @property
    def objective_metric(self) -> str:
        """The objective's metric; the task's usual one if none is named."""
        if self.objective is not None:
            return self.objective.metric
        return DEFAULT_OBJECTIVE.get(self.data.task, "log_loss")

    @property
    def objective_goal(self) -> Goal:
        """Which way the objective is better."""
        if self.objective is not None and self.objective.goal is not None:
            return self.objective.goal
        return METRICS[self.objective_metric].goal

    @property
    def tie_metric(self) -> str | None:
        """What decides, lower being better, where the objective says equal; None: nothing does."""
        metric = METRICS.get(self.objective_metric)
        means_something = self.data.task in METRICS[TIE_BREAKER].tasks
        return TIE_BREAKER if metric and metric.goal == "max" and means_something else None

    @property
    def most_folds_at_once(self) -> int:
        """How many folds of a job without a sweep may train side by side, if they find room: all,
        where one worker is a training.
        """
        if self.tune is not None or self.scale.num_workers > 1:
            return 1
        return self.data.num_folds or 1

    @property
    def unit(self) -> str:
        """What the length of training is counted in: epochs, steps, rounds or fits."""
        given = [unit for unit in self.model.units if getattr(self.train, unit) is not None]
        return (given or list(self.model.units) or ["fits"])[0]

    @property
    def length(self) -> int:
        """The length of training in its `unit`."""
        return getattr(self.train, self.unit, None) or self.model.default_length
