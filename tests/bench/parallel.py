"""Data parallelism against the same script in bare DDP, and what a checkpoint costs training.

Two processes joined by gloo train the same network on the same batches, thirty steps by our loop
and thirty by the loop that a person would write for torchrun, in turns.
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
from loop import BLOCK, ROWS, STEPS, bare, batch, side_by_side, train
from torch.nn.parallel import DistributedDataParallel

from heliostat.parallel.world import SoloWorld, TorchWorld
from heliostat.spec.model import MlpModel
from heliostat.storage.lease import Lease
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.checkpoint import CommittedCheckpoints

TURNS, RANKS = 4, 2
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
    told = answers.get(timeout=600)
    for process in ranks:
        process.join()
    print(f"mlp 128-128, batch {RANKS} x {ROWS}, {RANKS} ranks of DDP: {told}")
    stall()


def rank(number: int, port: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """One of the processes."""
    torch.set_num_threads(1)
    keep_freed_memory()
    world = TorchWorld(number, RANKS, f"127.0.0.1:{port}", 120.0)
    batches = [batch(100 * number + i, RANKS) for i in range(50)]
    ours = train(MlpModel(kind="mlp"), batches, STEPS, BLOCK, world)
    told = side_by_side(
        ours, bare(batches, partial(DistributedDataParallel, gradient_as_bucket_view=True))
    )
    if number == 0:
        answers.put(told)
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
            without = sum(train(wide, batches, WIDE_STEPS, BLOCK, SoloWorld()))
            with_them = sum(train(wide, batches, WIDE_STEPS, BLOCK, SoloWorld(), kept, every))
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


if __name__ == "__main__":
    main()
