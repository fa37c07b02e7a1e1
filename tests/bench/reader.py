"""Rows a second of the mapped reader, against `np.take` from one matrix and Ray Data's batches.

Two million rows of 28 float columns, written with a fixed seed; a shuffled epoch, after
preparation. Ratios come from this one run.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from heliostat.data.fit import fit_encoder
from heliostat.data.prepare import prepare
from heliostat.data.reader import EpochBatches, RowReader
from heliostat.data.split import split_rows
from heliostat.plan.plan import plan_job
from heliostat.run.cluster import connected
from heliostat.spec.load import load_job

ROWS, COLUMNS, FILES = 2_000_000, 28, 8


def main() -> None:
    """Print rows a second and their ratios for batches of 1,024 and 8,192."""
    folder = Path(tempfile.mkdtemp())
    try:
        measure(folder)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path) -> None:
    """Write, prepare, read."""
    write(folder / "data")
    (folder / "job.yaml").write_text(
        f"name: bench\ndata: {{source: {folder}/data, target: y, task: binary, "
        "split: {validation: 0, test: 0}}\nmodel: {kind: mlp}\ntrain: {epochs: 1}\n"
    )
    plan = plan_job(load_job(folder / "job.yaml"))
    with connected(None) as cluster:
        start = time.perf_counter()
        prepared = prepare(plan, folder / "prepared", int(cluster.cpus), lambda done, total: None)
        print(
            f"prepare {ROWS:,} x {COLUMNS}: {time.perf_counter() - start:.1f} s, first pass of a new cluster"
        )
        split = split_rows(prepared, plan.columns, plan.job.spec.data, 0)
        rows = split.sides["train"]
        reader = RowReader(prepared, fit_encoder(prepared, plan.columns, plan.job.spec, rows)[0])
        matrix = np.random.default_rng(0).normal(size=(len(rows), COLUMNS)).astype(np.float32)
        for size in (1024, 8192):
            ours = ours_rate(reader, rows, size)
            take = take_rate(matrix, size)
            theirs = ray_rate(folder / "data", size)
            print(
                f"batch {size:>5}: {ours / 1e6:5.1f} M rows/s; np.take {take / 1e6:5.1f} "
                f"({ours / take:.2f} of it); iter_torch_batches {theirs / 1e6:.2f} ({ours / theirs:.0f} times)"
            )


def ours_rate(reader: RowReader, rows: np.ndarray, size: int) -> float:
    """A shuffled epoch by `EpochBatches`, transforms applied."""
    batches = EpochBatches(reader, rows, size, seed=1, rank=0, world_size=1)
    stream = batches(0)
    start = time.perf_counter()
    for _ in range(batches.batches_per_epoch):
        next(stream)
    return len(rows) / (time.perf_counter() - start)


def take_rate(matrix: np.ndarray, size: int) -> float:
    """The same epoch by a full permutation of one matrix in memory."""
    start = time.perf_counter()
    order = np.random.default_rng(1).permutation(len(matrix))
    for i in range(0, len(matrix), size):
        matrix.take(order[i : i + size], axis=0)
    return len(matrix) / (time.perf_counter() - start)


def ray_rate(source: Path, size: int) -> float:
    """Ray Data's own batches, shuffled by files and a local buffer."""
    data = ray.data.read_parquet(str(source), shuffle="files")
    start = time.perf_counter()
    seen = 0
    for batch in data.iter_torch_batches(batch_size=size, local_shuffle_buffer_size=8 * size):
        seen += len(batch["y"])
    return seen / (time.perf_counter() - start)


def write(folder: Path) -> None:
    """The data, with a fixed seed."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(FILES):
        columns = {
            f"f{j:02d}": rng.normal(size=ROWS // FILES).astype(np.float32) for j in range(COLUMNS)
        }
        columns["y"] = rng.integers(0, 2, ROWS // FILES)
        pq.write_table(pa.table(columns), folder / f"{i}.parquet", row_group_size=65_536)


if __name__ == "__main__":
    main()
