"""Scaling of the loss for float16, whose gradients would be rounded to zero (Micikevicius et al.,
2018): large scales keep them, and a step whose gradients overflow is left out and the scale halved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIRST_SCALE, LEAST_SCALE = 2.0**16, 2.0**-14
STEPS_BETWEEN_RISES = 2_000


@dataclass(frozen=True)
class LossScale:
    """The scale of now, and for how many steps it has done well. Always a power of two, so that
    to scale and to scale back changes no bit of what float32 holds.
    """

    scale: float = 1.0
    good_steps: int = 0

    @classmethod
    def of(cls, precision: str) -> LossScale:
        """The first scale of a precision: one for all but float16."""
        return cls(FIRST_SCALE) if precision == "float16" else cls()

    def after(self, overflowed: bool) -> LossScale:
        """The scale of the next step."""
        if overflowed:
            return LossScale(self.scale / 2)
        if self.good_steps + 1 == STEPS_BETWEEN_RISES:
            return LossScale(self.scale * 2)
        return LossScale(self.scale, self.good_steps + 1)

    @property
    def is_exhausted(self) -> bool:
        """Whether no scale is left: gradients are not finite for another reason."""
        return self.scale < LEAST_SCALE

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint's manifest keeps it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LossScale:
        """The scale that `to_json` wrote."""
        return cls(**value)
