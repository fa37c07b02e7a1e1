"""How many trials to train as one stacked model: measured, for it depends on the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from heliostat.models.network import build_network
from heliostat.models.randomness import Randomness
from heliostat.models.stacked import stacked
from heliostat.parallel.world import SoloWorld
from heliostat.plan.memory import format_bytes, machine_memory_bytes
from heliostat.spec.model import NetworkModel
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.assignment import Assignment, open_data
from heliostat.train.losses import row_losses
from heliostat.train.network import device_of, epoch_batches, tensor_batches
from heliostat.train.optim import build_optimizer
from heliostat.train.stacked_optim import StackedOptimizer
from heliostat.train.task import TensorBatch

SIZES = (2, 4, 8, 16, 32, 64)
MORE_SIZES = (128, 256)  # on a GPU, which has more to fill
LEAST_GAIN = 1.1
GOOD_ENOUGH = 0.95  # of the best pace: a smaller cohort leaves more to the other lanes
MEASURED_SECONDS = 0.3
MEMORY_SHARE = 0.25
VALUES_A_WEIGHT = 5  # itself, gradient, two moments, and the gradient put together


@dataclass(frozen=True)
class CohortSize:
    """How many trials train together (1: each alone), and why, for a person to read."""

    size: int
    why: str


def measured_cohort(assignment: Assignment, most: int, own_rows: bool) -> CohortSize:
    """Time a step alone and stacked, in cohorts of up to `most` trials and what memory holds; each
    trial with `own_rows` if their seeds differ.
    """
    keep_freed_memory()
    spec = assignment.spec
    torch.set_num_threads(max(1, int(spec.scale.resources.cpu)))
    trial = _Steps(assignment)
    limit = _memory_bytes(assignment, trial.device) * MEMORY_SHARE
    sizes = SIZES if trial.device.type == "cpu" else SIZES + MORE_SIZES
    alone = _seconds(trial.alone())
    paces: dict[int, float] = {}
    for size in sizes:
        if size > most or size * trial.bytes_each > limit:
            break
        paces[size] = alone * size / _seconds(trial.together(size, own_rows))
        if paces[size] < max(paces.values()) * 0.8:
            break  # it only gets worse: what they hold no longer fits a cache
    best = max(paces.values(), default=0.0)
    if best < LEAST_GAIN:
        held = f"{format_bytes(int(trial.bytes_each))} each"
        why = f"a step of several is at best {best:.2f} times as fast as theirs alone ({held})"
        return CohortSize(1, f"trained one by one: {why}")
    size = min(size for size, pace in paces.items() if pace >= best * GOOD_ENOUGH)
    return CohortSize(size, f"cohorts of {size}, {paces[size]:.1f} times as fast a step as alone")


def _memory_bytes(assignment: Assignment, device: torch.device) -> float:
    """What a cohort has where it trains: of a GPU, what the job asks for."""
    resources = assignment.spec.scale.resources
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total * min(1.0, resources.gpu)
    return resources.memory or machine_memory_bytes() or 2**31


class _Steps:
    """Steps of a trial's model on its own first batch."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment, self.spec = assignment, assignment.spec
        self.data = open_data(assignment)
        self.device = device_of(assignment)
        batches = epoch_batches(assignment, self.data, SoloWorld())
        self.batch: TensorBatch = next(tensor_batches(batches, self.device, 0))
        self.row_losses = row_losses(self.spec.train.loss, self.spec.data.task)
        model = self._model()
        num_weights = sum(parameter.numel() for parameter in model.parameters())
        widths = sum(m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear))
        num_values = num_weights * VALUES_A_WEIGHT + 6 * widths * len(self.batch.rows)
        self.bytes_each = 4 * num_values

    def alone(self) -> Callable[[], None]:
        """A step as a trial makes it that trains by itself."""
        model, batch = self._model().to(self.device), self.batch
        optimizer = build_optimizer(self.spec.train.optimizer, model)

        def step() -> None:
            optimizer.zero_grad()
            outputs = model(batch.numbers, batch.categories)
            torch.autograd.backward(self.row_losses(outputs, batch.target) @ batch.weights)
            optimizer.step()

        return step

    def together(self, size: int, own_rows: bool) -> Callable[[], None]:
        """A step of a cohort."""
        models, batch = [self._model() for _ in range(size)], self.batch
        model = stacked(models, own_rows).to(self.device)
        optimizer = StackedOptimizer([self.spec.train.optimizer] * size, [None] * size, model)
        factors, targets = [1.0] * size, batch.target.repeat(size)

        def step() -> None:
            numbers, categories = batch.numbers.expand(size, -1, -1), batch.categories
            if own_rows:  # put together from batches of their own
                numbers, categories = numbers.clone(), torch.stack([categories] * size, -1)
            outputs = model(numbers, categories)
            each = self.row_losses(outputs.flatten(0, 1), targets).view(size, -1)
            optimizer.step((each @ batch.weights).sum(), factors)

        return step

    def _model(self) -> torch.nn.Module:
        assert isinstance(self.spec.model, NetworkModel)
        randomness = Randomness(self.spec.seed)
        randomness.set(0, self.batch.rows)
        return build_network(self.spec.model, self.data.shape, randomness, None).train()


def _seconds(step: Callable[[], None]) -> float:
    """The least time of a step; several are measured, for the machine has other things to do."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < MEASURED_SECONDS:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
