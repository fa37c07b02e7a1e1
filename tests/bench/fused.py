"""A sweep of 64 small networks on the flights, fused against two at once on a thread each: wall time
of the tuning phase, time in the lanes, and how far the metrics are apart, by batch size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from heliostat.storage.segments import read_rows

ROOT = Path(__file__).parent.parent.parent
FLIGHTS = ROOT / "jobs" / "data" / "flights"
TRIALS = 64
EPOCHS = {64: 3, 256: 6, 1024: 6}


def main() -> None:
    """Print ratios for each batch size."""
    if not FLIGHTS.exists():
        subprocess.run([sys.executable, ROOT / "jobs" / "flights.py"], check=True)
    folder = Path(tempfile.mkdtemp())
    for batch_size, epochs in EPOCHS.items():
        fused, alone = (sweep(folder, batch_size, epochs, fuse) for fuse in (True, False))
        apart = [
            abs(row["metrics"]["auc"] - alone.rows[id_]["metrics"]["auc"])
            for id_, row in fused.rows.items()
        ]
        print(
            f"batch {batch_size:>5}: {alone.seconds:.0f} s alone, {fused.seconds:.0f} s fused: "
            f"{alone.seconds / fused.seconds:.2f} times as fast "
            f"({alone.busy / fused.busy:.2f} in the lanes); AUC apart by at most {max(apart):.4f}, "
            f"by {sorted(apart)[len(apart) // 2]:.5f} in the middle; {fused.told}",
            flush=True,
        )


class Swept:
    """What a finished sweep left."""

    def __init__(self, folder: Path, name: str, result: dict) -> None:
        ledger = list(read_rows(folder / "s" / "runs" / name / "trials"))
        self.seconds = result["seconds"]["tune"]
        self.rows = {row["id"]: row for row in ledger if row["kind"] == "final"}
        self.busy = sum(row["seconds"] for row in self.rows.values())
        self.told = next((row["fuse"] for row in ledger if "fuse" in row), "")


def sweep(folder: Path, batch_size: int, epochs: int, fuse: bool) -> Swept:
    """Run it by the command."""
    name = f"bench-{batch_size}-{'fused' if fuse else 'alone'}"
    job = folder / f"{name}.yaml"
    job.write_text(
        f"name: {name}\nstorage: {folder}/s\nobjective: auc\n"
        f"data: {{source: '{FLIGHTS}/flights-0[1-4].parquet', target: late, task: binary, "
        "features: {carrier: category, origin: category, sched_dep_time: number, "
        "distance: number, month: number, dep_delay: number}}\n"
        f"model: {{kind: mlp, hidden: [128, 128]}}\n"
        f"train: {{epochs: {epochs}, batch_size: {batch_size}}}\n"
        f"tune: {{trials: {TRIALS}, concurrency: 2, fuse: {str(fuse).lower()}, space: {{"
        "train.optimizer.learning_rate: {low: 0.0001, high: 0.01, log: true}, "
        "train.optimizer.weight_decay: {low: 0.0001, high: 0.1, log: true}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "heliostat", "run", job, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Swept(folder, name, json.loads(done.stdout))


if __name__ == "__main__":
    main()
