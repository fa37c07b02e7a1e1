"""`tune`: which configurations are tried, and how bad ones are cut short."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from heliostat.spec.base import Spec
from heliostat.spec.short import short_for

MOST_STEPS = 2**53  # what a draw tells apart
Scalar = bool | int | float | str | None | list[int] | dict[str, Any]


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


Wanted = Annotated[tuple[Scalar, ...], BeforeValidator(_listed), Field(strict=False, min_length=1)]
When = dict[str, Wanted]


Bound = Annotated[int, Field(ge=-(2**63), lt=2**63)] | float


class Range(Spec):
    """Numbers between two bounds, both included. Whole bounds draw whole numbers. Searched only
    `when` other keys of the space have one of the values named.
    """

    low: Bound
    high: Bound
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 when `log` is true")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other")
        if self.step is not None and (self.high - self.low) / self.step > MOST_STEPS:
            raise ValueError(f"step {self.step} leads through more than {MOST_STEPS:,} values")
        return self

    @property
    def num_points(self) -> int | None:
        """How many values a step from `low` leads through; None without one."""
        if self.step is None:
            return None
        if self.whole:
            return int((self.high - self.low) // self.step) + 1
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        step_is_whole = self.step is None or isinstance(self.step, int)
        return isinstance(self.low, int) and isinstance(self.high, int) and step_is_whole


class Choice(Spec):
    """Some values, searched only `when` other keys have one of the values named. Without a
    condition a plain list says the same.
    """

    values: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)]
    when: When = Field(default_factory=dict)


def _dimension_tag(value: Any) -> str:
    is_choice = isinstance(value, Choice) or (isinstance(value, Mapping) and "values" in value)
    return "choice" if is_choice else "range"


def _choice(value: Any) -> Any:
    return {"values": value} if isinstance(value, (list, tuple)) else value


Dimension = Annotated[
    Annotated[
        Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")],
        Discriminator(_dimension_tag),
    ],
    BeforeValidator(_choice),
]


class NoScheduler(Spec):
    """Every trial runs to its end."""

    name: Literal["none"] = "none"


class AshaScheduler(Spec):
    """Asynchronous successive halving (Li et al., MLSys 2020). `stop`: a trial goes on past a rung
    only if it is in the best 1/`reduction_factor` seen there so far, else it is cut. `promote`:
    every trial pauses at a rung, and goes on once it is in the best 1/`reduction_factor` of all
    that have come there; a new trial begins only where none can.
    """

    name: Literal["asha"]
    mode: Literal["stop", "promote"] = "stop"
    grace_period: Annotated[int, Field(gt=0)] = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 3


Scheduler = Annotated[
    Annotated[NoScheduler, Tag("none")] | Annotated[AshaScheduler, Tag("asha")],
    Discriminator("name"),
]


class TuneSpec(Spec):
    """The search. `trials` counts draws; a grid counts itself. `start_from` is a run whose best
    configuration is tried first, and from all of whose trials `tpe` learns.
    """

    search: Literal["grid", "random", "tpe"] = "random"
    scheduler: Annotated[Scheduler, short_for("name", Scheduler)] = NoScheduler()
    trials: Annotated[int, Field(gt=0)] | None = None
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    concurrency: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    deterministic: bool = False
    fuse: bool = False
    start_from: str | None = None

    @model_validator(mode="after")
    def _trials_fit_the_search(self) -> TuneSpec:
        if self.search == "grid" and self.trials is not None:
            raise ValueError("a grid counts its own trials; leave out `trials`")
        if self.search != "grid" and self.trials is None:
            raise ValueError(f"search `{self.search}` needs `trials`")
        return self

    @model_validator(mode="after")
    def _conditions_look_back(self) -> TuneSpec:
        keys = list(self.space)
        for place, (key, dimension) in enumerate(self.space.items()):
            for other in dimension.when:
                if other not in keys[:place]:
                    raise ValueError(
                        f"`when` of `{key}` speaks of `{other}`, which is no key of the space "
                        "above it"
                    )
        return self
