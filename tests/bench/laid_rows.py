"""What it gains that the trials of a sweep lay their rows in the order of leaves: a boosted training
that finds its matrix, with and without, on one thread, and what laying costs the first. The flights,
which come by date; and two million rows of twenty numbers, which come in no order. The model is
the same bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.data.prepare import prepare
from heliostat.parallel.world import SoloWorld
from heliostat.plan.plan import plan_job
from heliostat.spec.load import load_job
from heliostat.train import quantised
from heliostat.train.assignment import Assignment, open_data
from heliostat.train.control import NoControl
from heliostat.train.job import train_events

FLIGHTS = Path(__file__).parent.parent.parent / "jobs" / "data" / "flights"
COLUMNS = (
    "sched_dep_time: number, distance: number, month: number, day: number, hour: number, "
    "dep_delay: number, carrier: category, origin: category, dest: category"
)
ROUNDS, TURNS = 50, 3


def main() -> None:
    """Print seconds and their ratio."""
    if not FLIGHTS.exists():
        subprocess.run([sys.executable, FLIGHTS.parent.parent / "flights.py"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers"
        write_numbers(numbers)
        for source, columns, target in ((FLIGHTS, COLUMNS, "late"), (numbers, '"*": auto', "y")):
            for depth in (4, 8):
                compare(Path(folder), source, columns, target, depth)


def write_numbers(folder: Path, rows: int = 2_000_000, columns: int = 20) -> None:
    """A class that depends on some of the columns."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(columns, rows)).astype(np.float32)
    logit = x[0] + x[1] * x[2] + np.sin(3 * x[3]) + 0.5 * x[4]
    y = logit + rng.logistic(size=rows) > 0
    table = pa.table({f"x{i}": values for i, values in enumerate(x)} | {"y": y})
    pq.write_table(table, folder / "part.parquet", row_group_size=250_000)


def compare(folder: Path, source: Path, columns: str, target: str, depth: int) -> None:
    """The shortest of some trainings each way, and whether they gave the same bytes."""
    assignment = assignment_of(folder, source, columns, target, depth)
    least, first, later, models = quantised.LEAST_LAID_ROWS, [], [], set()
    for least_rows in (2**62, least):
        quantised.LEAST_LAID_ROWS = least_rows
        open_data(assignment).derived.clear()
        seconds = [training_seconds(assignment) for _ in range(1 + TURNS)]
        first.append(seconds[0])
        later.append(min(seconds[1:]))
        models.add((Path(assignment.model_folder) / "booster.ubj").read_bytes())
    same = "the same bytes" if len(models) == 1 else "OTHER BYTES"
    print(
        f"{source.name}, depth {depth}, {ROUNDS} rounds: as they come {later[0]:.2f} s, laid "
        f"{later[1]:.2f} s, ratio {later[1] / later[0]:.2f}; the first trial "
        f"{first[0]:.2f} and {first[1]:.2f} s; {same}",
        flush=True,
    )


def training_seconds(assignment: Assignment) -> float:
    """A whole training, from the opened data to the saved model."""
    started = time.perf_counter()
    for _ in train_events(assignment, SoloWorld(), NoControl()):
        pass
    return time.perf_counter() - started


def assignment_of(folder: Path, source: Path, columns: str, target: str, depth: int) -> Assignment:
    """The training, of rows prepared here."""
    job = folder / "job.yaml"
    job.write_text(
        f"name: bench\ndata: {{source: '{source}/*.parquet', target: {target}, task: binary, "
        f"features: {{{columns}}}}}\n"
        f"model: {{kind: xgboost, max_depth: {depth}}}\n"
        f"train: {{rounds: {ROUNDS}, validate_every: {ROUNDS}}}\n"
    )
    plan = plan_job(load_job(job))
    prepare(plan, folder / "prepared", 0, lambda done, total: None)
    return Assignment(
        job=plan.job.spec.model_dump(mode="json", by_alias=True),
        columns=plan.columns,
        prepared=str(folder / "prepared" / plan.prepared_digest),
        data_digest=plan.catalog.digest,
        code=None,
        code_digest="",
        model_folder=str(folder / "model"),
        final=False,
    )


if __name__ == "__main__":
    main()
