"""Rows a second of the mapped reader, against `np.take` from one matrix and Ray Data's batches.

A shuffled epoch, transforms applied, after preparation. A run reads the next window by a thread
while it trains; so it does here.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import ray

from heliostat.data.fit import fit_encoder
from heliostat.data.prepare import prepare
from heliostat.data.reader import EpochBatches, RowReader
from heliostat.data.split import split_rows
from heliostat.plan.plan import Plan
from heliostat.run.cluster import connected
from tests.bench.figures import at_least, compare, seconds_of
from tests.bench.tables import files_of, plan_of, write_floats

ROWS, COLUMNS, FILE_ROWS = 2_000_000, 28, 250_000
GOALS = {1024: 0.55, 8192: 0.65}
RAY_PAIRS = 3


def main() -> None:
    """The ratio for batches of 1,024 and 8,192."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_floats(folder / "data", ROWS, COLUMNS, file_rows=FILE_ROWS)
        plan = plan_of(folder, files_of(folder / "data"), "{validation: 0, test: 0}")
        with connected(None) as cluster:
            reader, rows = opened(plan, folder / "prepared", int(cluster.cpus))
            matrix = np.random.default_rng(0).standard_normal((len(rows), COLUMNS), np.float32)
            for size, goal in GOALS.items():
                ours = partial(epoch_rate, reader, rows, size)
                name = f"shuffled epoch of {ROWS:,} x {COLUMNS}, batch {size:,}"
                compare(f"{name} / np.take", ours, partial(take_rate, matrix, size), at_least(goal))
                theirs = partial(ray_rate, folder / "data", size)
                compare(f"{name} / iter_torch_batches", ours, theirs, pairs=RAY_PAIRS)


def opened(plan: Plan, storage: Path, num_tasks: int) -> tuple[RowReader, np.ndarray]:
    """A reader of the prepared rows, and the rows to train on."""
    prepared = prepare(plan, storage, num_tasks, lambda done, total: None)
    rows = split_rows(prepared, plan.columns, plan.job.spec.data, 0).sides["train"]
    return RowReader(prepared, fit_encoder(prepared, plan.columns, plan.job.spec, rows)[0]), rows


def epoch_rate(reader: RowReader, rows: np.ndarray, size: int) -> float:
    """Rows a second of an epoch by `EpochBatches`."""
    batches = EpochBatches(reader, rows, size, seed=1, rank=0, world_size=1)
    stream = batches(0)

    def epoch() -> None:
        for _ in range(batches.batches_per_epoch):
            next(stream)

    return len(rows) / seconds_of(epoch)


def take_rate(matrix: np.ndarray, size: int) -> float:
    """The same by a full permutation of one matrix in memory."""

    def epoch() -> None:
        order = np.random.default_rng(1).permutation(len(matrix))
        for i in range(0, len(matrix), size):
            matrix.take(order[i : i + size], axis=0)

    return len(matrix) / seconds_of(epoch)


def ray_rate(source: Path, size: int) -> float:
    """Ray Data's own batches, shuffled by files and a local buffer."""
    data = ray.data.read_parquet(str(source), shuffle="files")

    def epoch() -> None:
        for _ in data.iter_torch_batches(batch_size=size, local_shuffle_buffer_size=8 * size):
            pass

    return ROWS / seconds_of(epoch)


if __name__ == "__main__":
    main()
