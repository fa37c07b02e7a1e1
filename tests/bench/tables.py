"""Tables of random floats, and the jobs over them, for the benchmarks of the data path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.plan.plan import Plan, plan_job
from heliostat.spec.load import load_job

FILE_ROWS = 1_000_000


def write_floats(
    folder: Path, rows: int, columns: int, *, file_rows: int = FILE_ROWS, group_rows: int = 65_536
) -> None:
    """Columns `f000`, ... and a target `y` of two classes, with a fixed seed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, file_rows)):
        here = min(file_rows, rows - start)
        values = rng.standard_normal((columns, here), np.float32)
        table: dict[str, Any] = {f"f{i:03d}": values[i] for i in range(columns)}
        table["y"] = rng.integers(0, 2, here)
        pq.write_table(pa.table(table), folder / f"{number:05d}.parquet", row_group_size=group_rows)


def files_of(folder: Path) -> list[str]:
    """Its files, in order."""
    return [str(path) for path in sorted(folder.iterdir())]


def plan_of(folder: Path, files: list[str], split: str) -> Plan:
    """A job of a network over the files; `split` in YAML."""
    path = folder / "job.yaml"
    source = "".join(f"\n    - {file}" for file in files)
    path.write_text(
        f"name: bench\ndata:\n  source:{source}\n  target: y\n  task: binary\n"
        f"  split: {split}\nmodel: {{kind: mlp}}\ntrain: {{epochs: 1}}\n"
    )
    return plan_job(load_job(path))


def scan(files: list[str], columns: int) -> np.ndarray:
    """The columns as one float32 matrix, read on one thread."""
    matrix = np.empty((sum(pq.read_metadata(f).num_rows for f in files), columns), np.float32)
    at = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(65_536, use_threads=False):
                for i in range(columns):
                    matrix[at : at + len(batch), i] = batch.column(i)
                at += len(batch)
    return matrix
