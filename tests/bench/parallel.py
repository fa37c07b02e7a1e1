"""Data parallelism against the same script in bare DDP, and what a checkpoint costs training.

Two processes joined by gloo train the same network on the same batches in turns, by our loop and
by the loop that a person would write for torchrun; the median of the ratios of neighbouring turns.
A checkpoint's stall is what a run with checkpoints takes longer than one without, for each of
them; its share is of one checkpoint a minute.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn.parallel import DistributedDataParallel

from heliostat.models.network import build_network
from heliostat.models.predictor import Shape
from heliostat.models.randomness import Randomness
from heliostat.parallel.apply import parallelized
from heliostat.parallel.world import Degrees, SoloWorld, TorchWorld, World
from heliostat.spec.model import MlpModel
from heliostat.spec.train import LossSpec, OptimizerSpec
from heliostat.storage.lease import Lease
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.checkpoint import Checkpoints, CommittedCheckpoints, ScratchCheckpoints
from heliostat.train.control import NoControl
from heliostat.train.loop import Fit, TensorBatch, fit
from heliostat.train.losses import loss_sum
from heliostat.train.optim import build_optimizer

ROWS, NUMBERS, STEPS, TURNS, RANKS = 1024, 28, 400, 9, 2
WIDE, WIDE_STEPS, CHECKPOINTS = (1024, 1024, 1024), 120, 4


def main() -> None:
    """Print both."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = context.Queue()
    ranks = [context.Process(target=rank, args=(i, port, answers)) for i in range(RANKS)]
    for process in ranks:
        process.start()
    mine, theirs, overhead = answers.get(timeout=600)
    for process in ranks:
        process.join()
    print(
        f"mlp 128-128, batch {RANKS} x {ROWS}, {RANKS} ranks, logged every 10: {mine:,.0f} steps/s, "
        f"bare DDP {theirs:,.0f} steps/s, overhead {overhead:.1%}"
    )
    stall()


def rank(number: int, port: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """One of the processes."""
    torch.set_num_threads(1)
    keep_freed_memory()
    world = TorchWorld(number, RANKS, f"127.0.0.1:{port}", 120.0)
    batches = [batch(100 * number + i) for i in range(50)]
    ours(batches, world), bare(batches)
    pairs = [(ours(batches, world), bare(batches)) for _ in range(TURNS)]
    if number == 0:
        mine, theirs = (STEPS / median(seconds) for seconds in zip(*pairs, strict=True))
        answers.put((mine, theirs, median(m / t for m, t in pairs) - 1))
    world.close()


def stall() -> None:
    """What a checkpoint of a wider network costs."""
    torch.set_num_threads(1)
    batches = [batch(i) for i in range(20)]
    with tempfile.TemporaryDirectory() as name:
        lease = Lease.acquire(Path(name) / "lease")
        assert lease is not None
        kept = CommittedCheckpoints(Path(name) / "c", Path(name) / "lease", lease.token, 2, {})
        every = WIDE_STEPS // CHECKPOINTS
        wide = MlpModel(kind="mlp", hidden=WIDE)
        pairs = []
        for _ in range(TURNS):
            without = train(wide, batches, SoloWorld(), ScratchCheckpoints(), WIDE_STEPS, None)
            with_them = train(wide, batches, SoloWorld(), kept, WIDE_STEPS, every)
            pairs.append((with_them - without) / CHECKPOINTS)
            for folder in (Path(name) / "c").iterdir():
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
    step = without / WIDE_STEPS
    print(
        f"a checkpoint of 2.1M parameters with optimizer, step {1000 * step:.0f} ms: training loses "
        f"{1000 * median(pairs):.0f} ms, {median(pairs) / 60:.2%} at one a minute"
    )


def batch(number: int) -> TensorBatch:
    """Rows of noise, with a target; as many rows on every rank."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(ROWS, NUMBERS, generator=generator)
    codes, rows = torch.zeros(ROWS, 0, dtype=torch.int64), torch.arange(ROWS)
    whole = ROWS * (torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1)
    return TensorBatch(x, codes, (x[:, 0] > 0).long(), rows, torch.ones(ROWS), whole, float(whole))


def network(spec: MlpModel) -> torch.nn.Module:
    """A new network, the same each time."""
    torch.manual_seed(0)
    return build_network(spec, Shape(NUMBERS, (), 1, "binary"), Randomness(), None).train()


def ours(batches: list[TensorBatch], world: World) -> float:
    """Seconds of our loop."""
    return train(MlpModel(kind="mlp"), batches, world, ScratchCheckpoints(), STEPS, None)


def train(
    spec: MlpModel, batches: list[TensorBatch], world: World, checkpoints: Checkpoints, steps: int,
    checkpoint_every: int | None,
) -> float:  # fmt: skip
    """Seconds of a training by our loop."""
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
        goal="max", patience=None, num_steps=steps, steps_per_epoch=steps, steps_per_unit=steps,
        validate_every=steps, log_every=10, checkpoint_every=checkpoint_every,
        randomness=Randomness(), seed=0, validates=False,
    )  # fmt: skip
    begin = time.perf_counter()
    for _ in fit(task, world, checkpoints, NoControl()):
        pass
    return time.perf_counter() - begin


def bare(batches: list[TensorBatch]) -> float:
    """Seconds of the loop that a person would write."""
    model = network(MlpModel(kind="mlp"))
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = build_optimizer(OptimizerSpec(), model)
    loss_of = torch.nn.BCEWithLogitsLoss()
    begin = time.perf_counter()
    for step in range(STEPS):
        now = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = loss_of(replica(now.numbers, now.categories)[:, 0], now.target.float())
        loss.backward()
        optimizer.step()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
