"""What the trials of a cohort read. Those of one seed share their rows. A seed chooses the split
and the order of rows: trials of several seeds read rows of their own, as many at a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heliostat.data.encode import Inputs
from heliostat.models.randomness import Randomness
from heliostat.parallel.world import SoloWorld
from heliostat.train.assignment import Assignment, open_data
from heliostat.train.network import epoch_batches, tensor_batches
from heliostat.train.task import TensorBatch


@dataclass(frozen=True)
class CohortBatch:
    """`numbers` are [models, rows, numbers], `categories` as `stacked` takes them, `targets`
    [models x rows], and `weights` [models or 1, rows], of a sum of 1.
    """

    numbers: Tensor
    categories: Tensor
    targets: Tensor
    weights: Tensor
    num_rows: int


class Source:
    """The data of a seed, and its draws."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment, self.data = assignment, open_data(assignment)
        self.randomness = Randomness(assignment.spec.seed)

    def batches(self, device: torch.device, first: int) -> Iterator[TensorBatch]:
        """Those of a training from step `first` on."""
        return tensor_batches(epoch_batches(self.assignment, self.data, SoloWorld()), device, first)

    @cached_property
    def validation(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Targets and weights of the validation rows."""
        rows, reader = self.data.rows("validation"), self.data.reader
        return reader.targets(rows), reader.weights(rows)

    @property
    def form(self) -> tuple[object, ...]:
        """What those that train together must have in common. A text's tokens are looked up for
        all at once: such trials share their rows.
        """
        data, seed = self.data, self.assignment.spec.seed
        counts = data.num_examples, len(data.rows("validation"))
        return (data.shape, *counts, seed if data.shape.texts else None)


def sources_of(assignments: Sequence[Assignment]) -> Mapping[int, Source]:
    """By seed. Each is opened once."""
    sources: dict[int, Source] = {}
    for assignment in assignments:
        if assignment.spec.seed not in sources:
            sources[assignment.spec.seed] = Source(assignment)
    return sources


class CohortRows:
    """The rows of models with these `seeds`, from `step` on."""

    def __init__(
        self, sources: Mapping[int, Source], seeds: Sequence[int], step: int, device: torch.device
    ) -> None:
        self._sources, self._device = sources, device
        self._batches = {seed: sources[seed].batches(device, step) for seed in dict.fromkeys(seeds)}
        self.seat(seeds)

    def seat(self, seeds: Sequence[int]) -> None:
        """Read on for these alone."""
        self._seeds = list(dict.fromkeys(seeds))
        self.are_own = len(self._seeds) > 1
        self._places = torch.tensor([self._seeds.index(seed) for seed in seeds]).to(self._device)

    def next(self, step: int) -> CohortBatch:
        """The batch of a step, by which draws are keyed."""
        batches = [next(self._batches[seed]) for seed in self._seeds]
        for seed, batch in zip(self._seeds, batches, strict=True):
            self._sources[seed].randomness.set(step, batch.rows)
        weights = [batch.weights * (1 / (batch.global_weight or 1.0)) for batch in batches]
        numbers, categories = self._spread(batches)
        targets = torch.stack([batch.target for batch in batches])[self._places]
        return CohortBatch(
            numbers,
            categories,
            targets.flatten(0, 1),
            torch.stack(weights)[self._places] if self.are_own else weights[0][None],
            batches[0].global_rows,
        )

    def validation(self, rows_at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of the validation rows, some at a time."""
        readers = [self._sources[seed].data for seed in self._seeds]
        for start in range(0, len(readers[0].rows("validation")), rows_at_once):
            some = slice(start, start + rows_at_once)
            read = [data.reader.inputs(data.rows("validation")[some]) for data in readers]
            yield self._spread([_Inputs.of(inputs, self._device) for inputs in read])

    def _spread(self, parts: Sequence[TensorBatch | _Inputs]) -> tuple[Tensor, Tensor]:
        """What each model reads."""
        if not self.are_own:
            return parts[0].numbers.expand(len(self._places), -1, -1), parts[0].categories
        numbers = torch.stack([part.numbers for part in parts])[self._places]
        return numbers, torch.stack([part.categories for part in parts], -1)[..., self._places]


@dataclass(frozen=True)
class _Inputs:
    numbers: Tensor
    categories: Tensor

    @classmethod
    def of(cls, inputs: Inputs, device: torch.device) -> _Inputs:
        numbers, categories = (
            torch.from_numpy(np.ascontiguousarray(values)).to(device)
            for values in (inputs.numbers, inputs.categories)
        )
        return cls(numbers, categories.long())
