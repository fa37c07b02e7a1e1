"""How preparation and reading grow: slopes of log seconds against log size.

Not among all: it takes about ten minutes; `python -m tests.bench.scaling_data rows` is a part.
Rows at 28 columns; columns at as many values; row groups of few rows. A slope of 1 is linear;
preparing has a constant part, so that it comes out below.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from heliostat.run.cluster import connected
from tests.bench.figures import Figure, report, seconds_of
from tests.bench.prepare import SPLIT, prepared_with_statistics
from tests.bench.reader import epoch_rate, opened
from tests.bench.tables import files_of, plan_of, write_floats

ROWS = (1_000_000, 4_000_000, 16_000_000)
COLUMNS, VALUES = (10, 100, 1_000), 28_000_000
GROUPS, GROUP_ROWS = (1_000, 10_000, 100_000), 10
BATCH, TURNS = 8_192, 2


def main() -> None:
    """One slope for each dimension of preparing, and of reading."""
    with tempfile.TemporaryDirectory() as name, connected(None) as cluster:
        folder = Path(name)

        def of_shape(rows: int, columns: int, group_rows: int) -> tuple[float, float]:
            shape = folder / "shape"
            write_floats(shape / "data", rows, columns, group_rows=group_rows)
            files = files_of(shape / "data")
            plan = plan_of(shape, files, SPLIT)
            storages = [shape / f"prepared-{turn}" for turn in range(TURNS)]
            prepares = [
                seconds_of(partial(prepared_with_statistics, plan, storage, cluster.cpus))
                for storage in storages
            ]
            whole = plan_of(shape, files, "{validation: 0, test: 0}")
            reader, train = opened(whole, storages[0], int(cluster.cpus))
            reads = [len(train) / epoch_rate(reader, train, BATCH) for _ in range(TURNS)]
            shutil.rmtree(shape)
            return min(prepares), min(reads)

        of_shape(ROWS[0], 10, 65_536)  # a cluster's first pass starts processes
        dimensions = {
            "rows": ("rows, 28 columns", ROWS, lambda rows: of_shape(rows, 28, 65_536)),
            "columns": ("columns, 28M values", COLUMNS, lambda c: of_shape(VALUES // c, c, 65_536)),
            "groups": (
                "row groups of 10 rows", GROUPS, lambda g: of_shape(g * GROUP_ROWS, 10, GROUP_ROWS)
            ),
        }  # fmt: skip
        for chosen in sys.argv[1:] or dimensions:
            slopes(*dimensions[chosen])


def slopes(name: str, sizes: Sequence[int], seconds: Callable[[int], tuple[float, float]]) -> None:
    """Fit and report what preparing and reading take of each size."""
    measured = [seconds(size) for size in sizes]
    for what, taken in zip(("prepare", "read"), zip(*measured, strict=True), strict=True):
        slope = float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])
        parts = {f"{size:,}": (value,) for size, value in zip(sizes, taken, strict=True)}
        report(Figure(f"{what}: exponent in {name}", "", (slope,), None, parts))


if __name__ == "__main__":
    main()
