"""The memory that preparing and reading take, at two sizes: it should not grow with the rows.

The peak of RssAnon + RssShmem summed over a process and all below it, Ray's own among them. Each
kind of work has a process and a cluster of its own, whose figure goes through a file. Not among
all: it writes 16 million rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray

from heliostat.data.fit import fit_encoder
from heliostat.data.prepare import prepare
from heliostat.data.reader import EpochBatches, RowReader
from heliostat.data.split import split_rows
from heliostat.plan.plan import Plan
from heliostat.run.cluster import connected
from tests.bench.figures import Figure, report
from tests.bench.prepare import SPLIT
from tests.bench.tables import FILE_ROWS, files_of, plan_of, write_floats

COLUMNS = 28
SETTLED_SECONDS = 4.0
ROWS = (2_000_000, 16_000_000)
WORK = ("prepare", "epoch", "iter_batches")


def main() -> None:
    """Peaks of each kind of work at both sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_floats(folder / "data", max(ROWS), COLUMNS)
        for rows in ROWS:
            for what in WORK:
                peak = peak_alone(folder, what, rows) / 2**20
                report(Figure(f"peak memory, {what}, {rows:,} rows", "MiB", (peak,)))


def peak_alone(folder: Path, what: str, rows: int) -> int:
    """The peak of one kind of work in a process and a cluster of its own."""
    answer = folder / "peak"
    subprocess.run(
        [sys.executable, "-m", "tests.bench.memory", what, str(folder), str(rows), str(answer)],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    return int(answer.read_text())


def alone(what: str, folder: Path, rows: int, answer: Path) -> None:
    """What `peak_alone` runs."""
    files, storage = files_of(folder / "data")[: rows // FILE_ROWS], folder / f"memory-{rows}"
    plan = plan_of(folder, files, SPLIT)
    with connected(None) as cluster:
        work: dict[str, Callable[[], Any]] = {
            "prepare": partial(prepare, plan, storage, int(cluster.cpus), lambda done, total: None),
            "epoch": partial(epoch, plan, storage),
            "iter_batches": partial(ray_epoch, files),
        }
        settle()
        answer.write_text(str(peak_of(work[what])))


def settle() -> None:
    """Wait until Ray's own processes have come up: what they hold is then the same."""
    held, since = 0, time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS:
        now = held_in_all()
        if abs(now - held) > 0.01 * held:
            held, since = now, time.monotonic()
        time.sleep(0.2)


def epoch(plan: Plan, storage: Path) -> None:
    """One shuffled epoch as training reads it."""
    prepared = prepare(plan, storage, 1, lambda done, total: None)
    rows = split_rows(prepared, plan.columns, plan.job.spec.data, 0).sides["train"]
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, rows)
    batches = EpochBatches(RowReader(prepared, encoder), rows, 8192, 1, 0, 1)
    stream = batches(0)
    for _ in range(batches.batches_per_epoch):
        next(stream)


def ray_epoch(files: list[str]) -> None:
    """Ray Data's own batches of the same rows."""
    for _ in ray.data.read_parquet(files).iter_batches(batch_size=8192):
        pass


def peak_of(work: Callable[[], Any]) -> int:
    """The most bytes held at once while it runs, looked at every 50 ms."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, held_in_all())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return peak


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def held_in_all() -> int:
    """What this process and all below it hold."""
    return sum(map(held_bytes, [os.getpid(), *descendants(os.getpid())]))


def held_bytes(pid: int) -> int:
    """RssAnon + RssShmem of a process; 0 once it is gone."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon", "RssShmem")):
                total += int(line.split()[1]) * 1024
    return total


if __name__ == "__main__":
    if len(sys.argv) > 1:
        alone(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
