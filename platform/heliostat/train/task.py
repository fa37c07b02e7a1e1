"""What a training is made of: batches, and all that the loop needs to learn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.models.randomness import Randomness
from heliostat.spec.metrics import Goal
from heliostat.train.losses import LossSum
from heliostat.train.optimizer import Optimizer
from heliostat.train.stopping import Progress
from heliostat.train.utilization import Utilization


@dataclass(frozen=True)
class TensorBatch:
    """One rank's slice of a global batch of `global_rows` rows that weigh `global_weight`."""

    numbers: Tensor
    categories: Tensor
    target: Tensor
    rows: Tensor
    weights: Tensor
    global_rows: int
    global_weight: float

    def pieces(self, num_rows: int | None) -> list[TensorBatch]:
        """The slice in micro-batches of at most `num_rows` rows; at least one, maybe empty."""
        total = len(self.rows)
        if num_rows is None or total <= num_rows:
            return [self]
        cuts = [slice(start, start + num_rows) for start in range(0, total, num_rows)]
        return [
            replace(
                self, numbers=self.numbers[cut], categories=self.categories[cut],
                target=self.target[cut], rows=self.rows[cut], weights=self.weights[cut],
            )
            for cut in cuts
        ]  # fmt: skip

    def filled(self, num_rows: int) -> TensorBatch:
        """The slice with rows that weigh nothing, to be `num_rows` rows."""
        more = num_rows - len(self.rows)

        def longer(values: Tensor, fill: int = 0) -> Tensor:
            return torch.cat([values, values.new_full((more, *values.shape[1:]), fill)])

        return replace(
            self, numbers=longer(self.numbers), categories=longer(self.categories),
            target=longer(self.target), rows=longer(self.rows, -1), weights=longer(self.weights),
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Everything the loop needs. `replica` is `model` wrapped for data parallelism, or itself.

    `batches(n)` yields from the n-th batch of the run on; lengths are in steps; `evaluate()`
    gives validation metrics, the same on every rank, of which `objective` says what is better and
    `tie_metric`, lower being better, where that is equal; `rate(step, progress)` the learning-rate
    factor; `plateau` evaluations without a better one count as a plateau. A step goes by
    `micro_rows` rows of a rank at a time (None: all), halved when memory runs out if
    `halves_micro_rows`; no rank has more than `most_rows` of a batch. It pauses at the first
    validation from `pause_step` on. `utilization` is what rows a second make of the GPUs.
    """

    model: nn.Module
    replica: nn.Module
    optimizer: Optimizer
    loss_sum: LossSum
    batches: Callable[[int], Iterator[TensorBatch]]
    rate: Callable[[int, Progress], float]
    evaluate: Callable[[], Mapping[str, float]]
    objective: str
    goal: Goal
    patience: int | None
    num_steps: int
    steps_per_epoch: int
    steps_per_unit: int
    unit: str
    validate_every: int
    log_every: int
    checkpoint_every: int | None
    randomness: Randomness
    seed: int
    tie_metric: str | None = None
    clip_norm: float | None = None
    micro_rows: int | None = None
    halves_micro_rows: bool = False
    most_rows: int = 0
    precision: str = "float32"
    plateau: int = 0
    tokens_per_row: int | None = None
    validates: bool = True
    seed_generator: bool = False
    pause_step: int | None = None
    utilization: Utilization = lambda rows_per_second: None
    manifest: Mapping[str, Any] = field(default_factory=dict)
