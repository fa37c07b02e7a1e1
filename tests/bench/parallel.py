"""Data parallelism against the same script in bare DDP, and what a checkpoint costs training.

Two processes joined by gloo train the same network on the same batches, thirty steps by our loop
and thirty by the loop that a person would write for torchrun, in turns.
A checkpoint's stall is what a run with checkpoints takes longer than one without, for each of
them.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from heliostat.parallel.world import SoloWorld, TorchWorld
from heliostat.spec.model import MlpModel
from heliostat.storage.lease import Lease
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.checkpoint import CommittedCheckpoints
from tests.bench.figures import Figure, report
from tests.bench.loop import BLOCK, ROWS, STEPS, bare, batch, train

TURNS, RANKS = 4, 2
WARM_UP, PAIRS, BOUND_SECONDS = 5, 40, 300
WIDE, WIDE_STEPS, CHECKPOINTS = (1024, 1024, 1024), 120, 4


def main() -> None:
    """Both figures."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = context.Queue()
    ranks = [context.Process(target=rank, args=(i, port, answers)) for i in range(RANKS)]
    for process in ranks:
        process.start()
    ours, theirs = answers.get(timeout=BOUND_SECONDS)
    for process in ranks:
        process.join()
    ratios = tuple(a / b for a, b in zip(ours, theirs, strict=True))
    name = f"training loop, mlp 128-128, batch {RANKS} x {ROWS}, {RANKS} ranks / bare DDP"
    report(Figure(name, "x", ratios, None, {"ours": tuple(ours), "theirs": tuple(theirs)}))
    stall()


def rank(number: int, port: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """One of the processes; the first answers with seconds of the blocks of both."""
    torch.set_num_threads(1)
    keep_freed_memory()
    world = TorchWorld(number, RANKS, f"127.0.0.1:{port}", 120.0)
    batches = [batch(100 * number + i, RANKS) for i in range(50)]
    ours = train(MlpModel(kind="mlp"), batches, STEPS, BLOCK, world)
    theirs = bare(batches, partial(DistributedDataParallel, gradient_as_bucket_view=True))
    pairs = [(next(ours), next(theirs)) for _ in range(WARM_UP + PAIRS)][WARM_UP:]
    if number == 0:
        answers.put(tuple(zip(*pairs, strict=True)))
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
            pairs.append(1000 * (with_them - without) / CHECKPOINTS)
            for folder in (Path(name) / "c").iterdir():
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
    report(Figure("what a checkpoint of 2.1M parameters takes", "ms", tuple(pairs)))


if __name__ == "__main__":
    main()
