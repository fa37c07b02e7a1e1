"""Data parallelism against the same script in bare DDP, and what a checkpoint costs training.

Two processes joined by gloo train the same network on the same batches in turns, by our loop and
by the loop that a person would write for torchrun; the best turn of each.
A checkpoint's stall is what a run with checkpoints takes longer than one without, for each of
them; its share is of one checkpoint a minute.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch
from loop import ROWS, bare, batch, train
from torch.nn.parallel import DistributedDataParallel

from heliostat.parallel.world import SoloWorld, TorchWorld, World
from heliostat.spec.model import MlpModel
from heliostat.storage.lease import Lease
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.checkpoint import CommittedCheckpoints
from heliostat.train.task import TensorBatch

STEPS, TURNS, RANKS, LOG_EVERY = 400, 15, 2, 10
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
    mine, bare_rate, overhead = answers.get(timeout=600)
    for process in ranks:
        process.join()
    print(
        f"mlp 128-128, batch {RANKS} x {ROWS}, {RANKS} ranks, logged every {LOG_EVERY}: {mine:,.0f} steps/s, "
        f"bare DDP {bare_rate:,.0f} steps/s, overhead {overhead:.1%}"
    )
    stall()


def rank(number: int, port: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """One of the processes."""
    torch.set_num_threads(1)
    keep_freed_memory()
    world = TorchWorld(number, RANKS, f"127.0.0.1:{port}", 120.0)
    batches = [batch(100 * number + i, RANKS) for i in range(50)]
    ours(batches, world), theirs(batches)
    pairs = [(ours(batches, world), theirs(batches)) for _ in range(TURNS)]
    if number == 0:
        mine, bare_rate = (STEPS / min(seconds) for seconds in zip(*pairs, strict=True))
        answers.put((mine, bare_rate, bare_rate / mine - 1))
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
            without = train(wide, batches, WIDE_STEPS, LOG_EVERY, SoloWorld())
            with_them = train(wide, batches, WIDE_STEPS, LOG_EVERY, SoloWorld(), kept, every)
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


def ours(batches: list[TensorBatch], world: World) -> float:
    """Seconds of our loop."""
    return train(MlpModel(kind="mlp"), batches, STEPS, LOG_EVERY, world)


def theirs(batches: list[TensorBatch]) -> float:
    """Seconds of the same script in bare DDP."""
    ddp = partial(DistributedDataParallel, gradient_as_bucket_view=True)
    return bare(batches, STEPS, ddp)


if __name__ == "__main__":
    main()
