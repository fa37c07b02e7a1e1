"""How long a whole `heliostat run` takes, cold: 1 and 2 workers, against a bare torch script.

Flights, nine inputs, a network of two hidden layers of 128, two epochs, batches of 1,024. Each
run has a storage of its own, so nothing is prepared before. The bare script reads the same
Parquet with pyarrow and trains the same network on one thread, with no split and no report.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial

from tests.bench.figures import ROOT, at_most, compare, run_command, run_script

GOALS = {1: 1.4, 2: 2.0}
DATA = ROOT / "jobs" / "data" / "flights"
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
    """Wall time of both, in turns."""
    subprocess.run([sys.executable, ROOT / "jobs" / "flights.py"], check=True)
    for workers, goal in GOALS.items():
        named = f"cold run of jobs/mlp.yaml, {workers} worker{'s' * (workers > 1)} / bare script"
        compare(named, partial(run, workers), partial(run_script, BARE, DATA), at_most(goal))


def run(workers: int) -> float:
    """Seconds of a cold run, from outside."""
    with tempfile.TemporaryDirectory() as storage:
        return run_command(
            "run", ROOT / "jobs" / "mlp.yaml",
            "--set", f"storage={storage}", "--set", f"scale.workers={workers}",
        )  # fmt: skip


if __name__ == "__main__":
    main()
