"""`tune`: which configurations are tried, and how bad ones are cut short."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from heliostat.spec.base import Spec

Scalar = bool | int | float | str | None | list[int] | dict[str, Any]


class Range(Spec):
    """Numbers between two bounds, both included. Whole bounds draw whole numbers."""

    low: int | float
    high: int | float
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 when `log` is true")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        step_is_whole = self.step is None or isinstance(self.step, int)
        return isinstance(self.low, int) and isinstance(self.high, int) and step_is_whole


def _dimension_tag(value: Any) -> str:
    return "choice" if isinstance(value, (list, tuple)) else "range"


Dimension = Annotated[
    Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1), Tag("choice")]
    | Annotated[Range, Tag("range")],
    Discriminator(_dimension_tag),
]


class NoScheduler(Spec):
    """Every trial runs to its end."""

    name: Literal["none"] = "none"


class AshaScheduler(Spec):
    """Asynchronous successive halving (Li et al., MLSys 2020), the stopping variant: a trial
    goes on past a rung only if it is in the best 1/`reduction_factor` seen there.
    """

    name: Literal["asha"]
    grace_period: Annotated[int, Field(gt=0)] = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 3


Scheduler = Annotated[
    Annotated[NoScheduler, Tag("none")] | Annotated[AshaScheduler, Tag("asha")],
    Discriminator("name"),
]


def _long_form(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TuneSpec(Spec):
    """The search. `trials` counts random draws; a grid counts itself."""

    search: Literal["grid", "random", "tpe"] = "random"
    scheduler: Annotated[Scheduler, BeforeValidator(_long_form)] = NoScheduler()
    trials: Annotated[int, Field(gt=0)] | None = None
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    concurrency: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    deterministic: bool = False
    fuse: bool = False

    @model_validator(mode="after")
    def _trials_fit_the_search(self) -> TuneSpec:
        if self.search == "grid" and self.trials is not None:
            raise ValueError("a grid counts its own trials; leave out `trials`")
        if self.search != "grid" and self.trials is None:
            raise ValueError(f"search `{self.search}` needs `trials`")
        return self
