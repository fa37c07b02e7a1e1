"""Preparation with the split and the statistics of five folds, in scans of the same rows.

A scan reads the same Parquet into one matrix on one thread, warm.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

from heliostat.data.prepare import prepare
from heliostat.data.split import split_rows
from heliostat.data.statistics import Wanted, gather_statistics
from heliostat.plan.plan import Plan
from heliostat.run.cluster import connected
from tests.bench.figures import at_most, compare, seconds_of
from tests.bench.tables import files_of, plan_of, scan, write_floats

ROWS, COLUMNS = 8_000_000, 28
SPLIT = "{method: random, folds: 5, test: 0}"


def main() -> None:
    """Both, in turns, in one cluster that is up already."""
    with tempfile.TemporaryDirectory() as name:
        folder, turns = Path(name), count()
        write_floats(folder / "data", ROWS, COLUMNS)
        files = files_of(folder / "data")
        plan = plan_of(folder, files, SPLIT)
        with connected(None) as cluster:

            def ours() -> float:
                storage = folder / f"prepared-{next(turns)}"
                seconds = seconds_of(lambda: prepared_with_statistics(plan, storage, cluster.cpus))
                shutil.rmtree(storage)
                return seconds

            compare(
                f"prepare {ROWS:,} x {COLUMNS}, 5-fold statistics / scan",
                ours, lambda: warm_scan(files), at_most(2.2),
            )  # fmt: skip


def warm_scan(files: list[str]) -> float:
    """Seconds of a scan once nothing of the preparation before it is left to be written, and
    another scan has come between.
    """
    os.sync()
    scan(files, COLUMNS)
    return seconds_of(lambda: scan(files, COLUMNS))


def prepared_with_statistics(plan: Plan, storage: Path, cpus: float) -> None:
    """Pack, split into folds, and gather what transforms are fitted on."""
    prepared = prepare(plan, storage, int(cpus), lambda done, total: None)
    split = split_rows(prepared, plan.columns, plan.job.spec.data, 0)
    labels, trains = split.parts(prepared.num_rows)
    gather_statistics(prepared, labels, trains.shape[1], Wanted.by(plan.columns, ""))


if __name__ == "__main__":
    main()
