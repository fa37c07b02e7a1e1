"""How long a whole `heliostat run` takes, cold: 1 and 2 workers, against a bare torch script.

Flights, nine inputs, a network of two hidden layers of 128, two epochs, batches of 1,024. Each
run has a storage of its own, so nothing is prepared before. The bare script reads the same
Parquet with pyarrow and trains the same network on one thread, with no split and no report.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
REPEATS = 3
BARE = """
import sys, time
import numpy as np, pyarrow.dataset as ds, pyarrow.compute as pc, torch
torch.set_num_threads(1)
t = ds.dataset(sys.argv[1]).to_table()
t = t.filter(pc.is_valid(t['late']))
numbers = ['month', 'day', 'sched_dep_time', 'dep_delay', 'distance', 'hour']
x = np.stack([pc.fill_null(t[c].cast('float32'), 0).to_numpy() for c in numbers], 1)
x = torch.from_numpy((x - x.mean(0)) / x.std(0))
codes = [t[c].combine_chunks().dictionary_encode().indices.to_numpy() for c in ('carrier', 'origin', 'dest')]
c = torch.from_numpy(np.stack(codes, 1).astype(np.int64))
y = torch.from_numpy(t['late'].to_numpy(zero_copy_only=False).astype('float32'))
tables = torch.nn.ModuleList(torch.nn.Embedding(int(c[:, i].max()) + 1, 10) for i in range(3))
net = torch.nn.Sequential(torch.nn.Linear(36, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 1))
o = torch.optim.AdamW([*net.parameters(), *tables.parameters()], 1e-3)
n = int(len(y) * 0.7)
for epoch in range(2):
    order = torch.randperm(n)
    for i in range(0, n, 1024):
        r = order[i:i + 1024]
        o.zero_grad()
        h = torch.cat([x[r], *[e(c[r, j]) for j, e in enumerate(tables)]], 1)
        torch.nn.functional.binary_cross_entropy_with_logits(net(h)[:, 0], y[r]).backward()
        o.step()
"""


def main() -> None:
    """Print a table: seconds of each kind of run, best of three, one after another."""
    subprocess.run([sys.executable, ROOT / "jobs" / "flights.py"], check=True)
    best: dict[str, float] = {}
    phases: dict[str, dict[str, float]] = {}
    for _ in range(REPEATS):
        for workers in (1, 2):
            seconds, result = run(workers)
            name = f"heliostat run, {workers} worker{'s' * (workers > 1)}"
            if seconds < best.get(name, 1e9):
                best[name], phases[name] = seconds, result["seconds"]
                phases[name]["auc"] = result["metrics"]["test"]["auc"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", BARE, ROOT / "jobs" / "data" / "flights"], check=True)
        best["bare script, 1 thread"] = min(
            best.get("bare script, 1 thread", 1e9), time.perf_counter() - start
        )
    for name, seconds in best.items():
        print(f"{name:<28}{seconds:6.1f} s  {json.dumps(phases.get(name, {}))}")


def run(workers: int) -> tuple[float, dict]:
    """One cold run; its seconds from outside, and its result."""
    storage = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "heliostat", "run", ROOT / "jobs" / "mlp.yaml", "--json",
         "--set", f"storage={storage}", "--set", f"scale.workers={workers}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    shutil.rmtree(storage)
    return seconds, json.loads(done.stdout)


if __name__ == "__main__":
    main()
