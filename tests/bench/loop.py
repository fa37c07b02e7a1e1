"""The training loop against a bare torch loop over the same batches in memory, side by side.

The same network, optimizer and batches, in one process on one thread, thirty steps of one and
thirty of the other in turns, so that whatever else the machine does falls on both. The loop's own work is what differs: learning rate, gradient norm, the look
for what is not finite, logging, stop requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import torch

from heliostat.models.network import build_network
from heliostat.models.predictor import Shape
from heliostat.models.randomness import Randomness
from heliostat.parallel.apply import parallelized
from heliostat.parallel.world import Degrees, SoloWorld, World
from heliostat.spec.model import MlpModel
from heliostat.spec.train import LossSpec, OptimizerSpec
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.checkpoint import Checkpoints, ScratchCheckpoints
from heliostat.train.control import NoControl
from heliostat.train.events import Stepped
from heliostat.train.loop import fit
from heliostat.train.losses import loss_sum
from heliostat.train.network import LOGGED_STEPS
from heliostat.train.optim import build_optimizer
from heliostat.train.task import Fit, TensorBatch
from tests.bench.figures import at_most, compare

ROWS, NUMBERS = 1024, 28
STEPS = 6000
BLOCK = STEPS // LOGGED_STEPS  # a run of as many steps logs once in as many
WARM_UP, PAIRS = 10, 100


def main() -> None:
    """What ours takes of bare torch, with one step in thirty and with every step logged."""
    torch.set_num_threads(1)
    keep_freed_memory()  # for both: as every worker that trains a network does
    batches = [batch(i) for i in range(50)]
    for log_every, goal in ((BLOCK, at_most(1.01)), (1, None)):
        ours = train(MlpModel(kind="mlp"), batches, STEPS, log_every, SoloWorld())
        theirs = bare(batches)
        for _ in range(WARM_UP):
            next(ours), next(theirs)
        name = f"training loop, mlp 128-128, batch {ROWS}, logged every {log_every} / bare torch"
        compare(name, partial(next, ours), partial(next, theirs), goal, pairs=PAIRS)


def batch(number: int, num_ranks: int = 1) -> TensorBatch:
    """Rows of noise, with a target; as many rows on every rank."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(ROWS, NUMBERS, generator=generator)
    codes, rows, whole = (
        torch.zeros(ROWS, 0, dtype=torch.int64),
        torch.arange(ROWS),
        ROWS * num_ranks,
    )
    return TensorBatch(x, codes, (x[:, 0] > 0).long(), rows, torch.ones(ROWS), whole, float(whole))


def network(spec: MlpModel) -> torch.nn.Module:
    """A new network, the same each time."""
    torch.manual_seed(0)
    return build_network(spec, Shape(NUMBERS, (), 1, "binary"), Randomness(), None).train()


def train(
    spec: MlpModel, batches: list[TensorBatch], num_steps: int, log_every: int,
    world: World, checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
) -> Iterator[float]:  # fmt: skip
    """Seconds of each block of steps of a training by our loop."""
    model = network(spec)

    def endless(first: int):  # type: ignore[no-untyped-def]
        while True:
            yield batches[first % len(batches)]
            first += 1

    task = Fit(
        model=model, replica=parallelized(model, world, Degrees()),
        optimizer=build_optimizer(OptimizerSpec(), model),
        loss_sum=loss_sum(LossSpec(), "binary"), batches=endless,
        rate=lambda step, progress: 1.0, evaluate=lambda: {"auc": 0.5}, objective="auc",
        goal="max", patience=None, num_steps=num_steps, steps_per_epoch=num_steps,
        steps_per_unit=num_steps, unit="epochs", validate_every=num_steps, log_every=log_every,
        checkpoint_every=checkpoint_every, randomness=Randomness(), seed=0, validates=False,
    )  # fmt: skip
    begin = time.perf_counter()
    for event in fit(task, world, checkpoints or ScratchCheckpoints(), NoControl()):
        if isinstance(event, Stepped) and event.step % BLOCK == 0:
            yield time.perf_counter() - begin
            begin = time.perf_counter()


def bare(
    batches: list[TensorBatch],
    replicated: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model,
) -> Iterator[float]:
    """Seconds of each block of steps of the loop that a person would write; `replicated` wraps the
    model for several ranks.
    """
    model = network(MlpModel(kind="mlp"))
    replica = replicated(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, fused=True)
    loss_of = torch.nn.BCEWithLogitsLoss()
    for block in count():
        begin = time.perf_counter()
        for step in range(block * BLOCK, (block + 1) * BLOCK):
            now = batches[step % len(batches)]
            optimizer.zero_grad()
            loss = loss_of(replica(now.numbers, now.categories)[:, 0], now.target.float())
            loss.backward()
            optimizer.step()
        yield time.perf_counter() - begin


if __name__ == "__main__":
    main()
