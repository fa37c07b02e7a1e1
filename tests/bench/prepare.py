"""Preparation against a plain scan, and the memory that preparing and reading take.

Float columns written with a fixed seed. The scan reads the same Parquet into one matrix in one
process on one thread, warm. Preparation includes the split and the statistics of five folds.
Memory is the peak of RssAnon + RssShmem summed over this process and all below it, Ray's own
among them; ratios come from one run.
"""

from __future__ import annotations

import os
import shutil
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from heliostat.data.fit import fit_encoder
from heliostat.data.prepare import prepare
from heliostat.data.reader import EpochBatches, RowReader
from heliostat.data.split import split_rows
from heliostat.data.statistics import Wanted, gather_statistics
from heliostat.plan.plan import Plan, plan_job
from heliostat.run.cluster import Cluster, connected
from heliostat.spec.load import load_job

COLUMNS, FILE_ROWS = 28, 1_000_000
SPEED_ROWS = 8_000_000
SETTLED_SECONDS = 4.0
MEMORY_ROWS = (2_000_000, 16_000_000)
WORK = ("prepare", "epoch", "iter_batches")


def main() -> None:
    """Print seconds and their ratio, then peaks at two sizes."""
    folder = Path(tempfile.mkdtemp())
    try:
        write(folder / "data", max(MEMORY_ROWS))
        with connected(None) as cluster:
            speed(folder, cluster)
        for rows in MEMORY_ROWS:
            peaks = [f"{what} {peak_alone(folder, what, rows) / 2**20:,.0f} MiB" for what in WORK]
            print(f"{rows:>12,} rows: peak {', '.join(peaks)}")
    finally:
        shutil.rmtree(folder)


def speed(folder: Path, cluster: Cluster) -> None:
    """Preparation with five folds' statistics in scans of the same rows."""
    files = part(folder, SPEED_ROWS)
    scan(files)
    scans = min(seconds_of(lambda: scan(files)) for _ in range(2))
    ours(folder / "warm", folder, FILE_ROWS, cluster)  # a cluster's first pass starts processes
    prepares = min(
        seconds_of(partial(ours, folder / f"speed-{turn}", folder, SPEED_ROWS, cluster))
        for turn in range(2)
    )
    print(
        f"{SPEED_ROWS:,} x {COLUMNS}: scan to matrix {scans:.1f} s, "
        f"prepare and 5-fold statistics {prepares:.1f} s ({prepares / scans:.1f} scans)"
    )


def peak_alone(folder: Path, what: str, rows: int) -> int:
    """The peak of one kind of work in a process and a cluster of its own."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(folder), str(rows)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Ray may say something on the same stream, also after it.
    return next(int(line) for line in done.stdout.splitlines() if line.isdigit())


def alone(what: str, folder: Path, rows: int) -> None:
    """What `peak_alone` runs."""
    plan, storage = plan_of(folder, rows), folder / f"memory-{rows}"
    with connected(None) as cluster:
        work: dict[str, Callable[[], Any]] = {
            "prepare": partial(prepare, plan, storage, int(cluster.cpus), lambda done, total: None),
            "epoch": partial(epoch, plan, storage),
            "iter_batches": partial(ray_epoch, part(folder, rows)),
        }
        settle()
        print(peak_of(work[what]))


def settle() -> None:
    """Wait until Ray's own processes have come up: what they hold is then the same."""
    held, since = 0, time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS:
        now = held_in_all()
        if abs(now - held) > 0.01 * held:
            held, since = now, time.monotonic()
        time.sleep(0.2)


def ours(storage: Path, folder: Path, rows: int, cluster: Cluster) -> None:
    """Pack, split into five folds, and fit: all in one pass over source and copy each."""
    plan = plan_of(folder, rows)
    prepared = prepare(plan, storage, int(cluster.cpus), lambda done, total: None)
    split = split_rows(prepared, plan.columns, plan.job.spec.data, 0)
    labels, trains = split.parts(prepared.num_rows)
    gather_statistics(prepared, labels, trains.shape[1], Wanted.by(plan.columns, ""))


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


def scan(files: list[str]) -> np.ndarray:
    """The columns as one float32 matrix."""
    matrix = np.empty((sum(pq.read_metadata(f).num_rows for f in files), COLUMNS), np.float32)
    at = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(65_536, use_threads=False):
                for i in range(COLUMNS):
                    matrix[at : at + len(batch), i] = batch.column(i)
                at += len(batch)
    return matrix


def plan_of(folder: Path, rows: int) -> Plan:
    """The job over the first `rows` rows."""
    path = folder / "job.yaml"
    files = "".join(f"\n    - {file}" for file in part(folder, rows))
    path.write_text(
        f"name: bench\ndata:\n  source:{files}\n  target: y\n  task: binary\n"
        "  split: {method: random, folds: 5, test: 0}\nmodel: {kind: mlp}\ntrain: {epochs: 1}\n"
    )
    return plan_job(load_job(path))


def part(folder: Path, rows: int) -> list[str]:
    """The files that hold the first `rows` rows."""
    return [str(path) for path in sorted((folder / "data").iterdir())][: rows // FILE_ROWS]


def write(folder: Path, rows: int) -> None:
    """The data, with a fixed seed."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(rows // FILE_ROWS):
        values = rng.standard_normal((COLUMNS, FILE_ROWS), np.float32)
        columns: dict[str, Any] = {f"f{j:02d}": values[j] for j in range(COLUMNS)}
        columns["y"] = rng.integers(0, 2, FILE_ROWS)
        pq.write_table(pa.table(columns), folder / f"{i:02d}.parquet", row_group_size=65_536)


def seconds_of(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
        alone(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
