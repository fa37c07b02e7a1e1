"""What a trial costs that learns nothing: the sweep's own overhead, ledger on.

Trees of depth one on a hundred rows, one at a time; the fixed start of Ray Tune is taken out by
the difference to a sweep of twenty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEW = 20
MANY = [int(count) for count in sys.argv[1:]] or [100, 1_000, 10_000]


def main() -> None:
    """Print milliseconds a trial at each size of sweep."""
    folder = Path(tempfile.mkdtemp())
    x = np.arange(100.0)
    pq.write_table(pa.table({"x": x, "y": x % 2 == 0}), folder / "data.parquet")
    least = sweep(folder, FEW)
    for count in MANY:
        seconds = sweep(folder, count)
        each = (seconds - least) / (count - FEW)
        print(f"{count:>6} trials: {1000 * each:.1f} ms a trial, its fit of ~5 ms included")


def sweep(folder: Path, count: int) -> float:
    """Seconds of the tuning phase."""
    (folder / "job.yaml").write_text(
        f"name: bench-{count}\nstorage: {folder}/s\n"
        f"data: {{source: {folder}/data.parquet, target: y, task: binary}}\n"
        f"model: {{kind: tree, max_depth: 1}}\ntune: {{trials: {count}, concurrency: 1, "
        "space: {model.ccp_alpha: {low: 0.0, high: 0.001}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "heliostat", "run", folder / "job.yaml", "--json"],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    return float(json.loads(done.stdout)["seconds"]["tune"])


if __name__ == "__main__":
    main()
