"""`train`: what is learned. Part of a run's identity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from heliostat.spec.base import Spec
from heliostat.spec.short import short_for

Count = Annotated[int, Field(gt=0)]
Loss = Literal[
    "auto", "mse", "mae", "huber", "quantile", "poisson", "binary_cross_entropy",
    "cross_entropy", "focal",
]  # fmt: skip


class LossSpec(Spec):
    """What training makes small; a loss alone stands for `{name: LOSS}`. `delta` is huber's,
    `quantile` the one to predict, `gamma` focal's; `label_smoothing` is for classes.
    """

    name: Loss = "auto"
    delta: Annotated[float, Field(gt=0)] = 1.0
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    gamma: Annotated[float, Field(ge=0)] = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ParameterSpec(Spec):
    """What differs for some parameters; `learning_rate` is theirs before the schedule."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class OptimizerSpec(Spec):
    """`weight_decay` spares norms and biases; `momentum` is for sgd. `parameters` maps patterns of
    names (`embeddings.*`) to settings of their own; the first that fits holds.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    parameters: dict[str, ParameterSpec] = {}


class ScheduleSpec(Spec):
    """The learning rate over the run. `step` divides it by ten at 50 and 75 per cent; `plateau`
    multiplies it by `factor` after `patience` evaluations without a better one.
    """

    name: Literal["constant", "step", "linear", "cosine", "one_cycle", "plateau"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    patience: Count = 3
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1


class EarlyStoppingSpec(Spec):
    """Stop after `patience` evaluations of the objective without a better one."""

    patience: Count


class TrainSpec(Spec):
    """The length in the model's own unit: epochs or steps for networks, rounds for boosting."""

    epochs: Count | None = None
    steps: Count | None = None
    rounds: Count | None = None
    validate_every: Count = 1
    batch_size: Count = 1024
    loss: Annotated[LossSpec, short_for("name", LossSpec)] = LossSpec()
    optimizer: Annotated[OptimizerSpec, short_for("name", OptimizerSpec)] = OptimizerSpec()
    schedule: Annotated[ScheduleSpec, short_for("name", ScheduleSpec)] = ScheduleSpec()
    early_stopping: EarlyStoppingSpec | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    compile: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> TrainSpec:
        given = [key for key in ("epochs", "steps", "rounds") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` both give the length; keep one")
        return self
