"""How a rank's rows pass a pipeline: the sum that `plan` shows and training goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MICRO_BATCHES_A_STAGE = 4  # a stage waits for less than a fifth of the step


@dataclass(frozen=True)
class MicroBatches:
    """`count` micro-batches of `rows` rows, all full: what lacks is filled with rows that weigh
    nothing.
    """

    count: int
    rows: int

    @classmethod
    def of(cls, rank_rows: int, size: Literal["auto"] | int, stages: int) -> MicroBatches:
        """Of a rank that has at most `rank_rows` rows of a batch; `size` as the job says it."""
        if size == "auto":
            size = -(-rank_rows // min(rank_rows, stages * MICRO_BATCHES_A_STAGE))
        return cls(max(stages, -(-rank_rows // size)), size)

    def waiting(self, stages: int) -> float:
        """The part of a step in which a stage waits: (p - 1) / (m + p - 1) (Huang et al., 2019)."""
        return (stages - 1) / (self.count + stages - 1)
