"""A whole `heliostat run` of boosted trees, its copy prepared, against a plain script.

Two million rows of 28 floats, depth 6, 100 rounds, two threads: one worker of two, and two workers
of one. The script reads the Parquet with pyarrow, splits it in the same shares, cuts the bins,
trains with the validation loss of every tenth round, and computes the AUC of the test rows. Its
training phase is all of that, from the first byte it reads; ours is the phase `train` of the run:
the worker's start, its rows, bins, rounds, and the scores of three sides.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.figures import (
    PAIRS,
    Figure,
    at_most,
    report,
    result_of,
    run_command,
    run_script,
)

ROWS, COLUMNS, ROUNDS, DEPTH = 2_000_000, 28, 100, 6
NATIVE = """
import json, sys, time
import numpy as np, pyarrow.dataset as ds, xgboost
from sklearn.metrics import roc_auc_score
start = time.perf_counter()
source, out, rounds, depth = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
table = ds.dataset(source).to_table()
y = table['y'].to_numpy().astype(np.float32)
x = np.stack([table[c].to_numpy() for c in table.column_names if c != 'y'], 1)
del table
order = np.random.default_rng(0).permutation(len(y))
cuts = [int(0.7 * len(y)), int(0.85 * len(y))]
train, validation, test = np.split(order, cuts)
settings = {'max_depth': depth, 'eta': 0.3, 'tree_method': 'hist', 'nthread': 2, 'objective': 'binary:logistic'}
t = xgboost.QuantileDMatrix(x[train], y[train], nthread=2)
v = xgboost.QuantileDMatrix(x[validation], y[validation], ref=t, nthread=2)
booster = xgboost.Booster(settings, [t, v])
for i in range(rounds):
    booster.update(t, i)
    if (i + 1) % 10 == 0:
        booster.eval_set([(t, 'train'), (v, 'validation')], i)
auc = roc_auc_score(y[test], booster.inplace_predict(x[test]))
seconds = time.perf_counter() - start
booster.save_model(out + '/model.ubj')
json.dump({'train': seconds, 'auc': auc}, open(out + '/native.json', 'w'))
"""


def main() -> None:
    """Report the ratios of whole commands, and of the training phases."""
    folder = Path(tempfile.mkdtemp())
    try:
        write_rows(folder / "data")
        (folder / "job.yaml").write_text(
            f"name: bench\nstorage: {folder}/s\n"
            f"data: {{source: {folder}/data, target: y, task: binary}}\n"
            f"model: {{kind: xgboost, max_depth: {DEPTH}, learning_rate: 0.3}}\n"
            f"train: {{rounds: {ROUNDS}, validate_every: 10}}\n"
        )
        run_command("prepare", folder / "job.yaml")
        figures(folder)
    finally:
        shutil.rmtree(folder)


def write_rows(folder: Path, rows: int = ROWS, columns: int = COLUMNS) -> None:
    """A class that depends on some of the columns, in an order that means nothing."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    step = 500_000
    for number, begin in enumerate(range(0, rows, step)):
        x = rng.normal(size=(columns, min(step, rows - begin))).astype(np.float32)
        logit = x[0] + x[1] * x[2] + np.sin(3 * x[3]) + 0.5 * x[4]
        y = logit + rng.logistic(size=len(logit)) > 0
        table = pa.table({f"x{i}": values for i, values in enumerate(x)} | {"y": y})
        pq.write_table(table, folder / f"{number:02d}.parquet", row_group_size=100_000)


def figures(folder: Path) -> None:
    """In turns: the script, one worker, two workers."""
    kinds: dict[str, Callable[[], float]] = {
        "native": lambda: run_script(NATIVE, folder / "data", folder, ROUNDS, DEPTH),
        "1 worker": lambda: run(folder, "one", "scale.resources.cpu=2"),
        "2 workers": lambda: run(folder, "two", "scale.workers=2"),
    }
    whole: dict[str, list[float]] = {name: [] for name in kinds}
    train: dict[str, list[float]] = {name: [] for name in ("native", "1 worker")}
    for _ in range(PAIRS):
        for name, seconds_of in kinds.items():
            whole[name].append(seconds_of())
        train["native"].append(json.loads((folder / "native.json").read_text())["train"])
        train["1 worker"].append(training_seconds(folder, "one"))
    ratios("whole run", "1 worker", whole, 1.10)
    ratios("whole run", "2 workers", whole, 1.3)
    ratios("training phase", "1 worker", train, 0.85)


def ratios(what: str, name: str, seconds: dict[str, list[float]], goal: float) -> None:
    """One figure: ours to the script's, turn by turn."""
    ours, theirs = seconds[name], seconds["native"]
    report(
        Figure(
            f"XGBoost, {ROWS:,} x {COLUMNS}, {ROUNDS} rounds, {what}, {name}, to native",
            "x",
            tuple(a / b for a, b in zip(ours, theirs, strict=True)),
            at_most(goal),
            {"ours": tuple(ours), "theirs": tuple(theirs)},
        )
    )


def run(folder: Path, name: str, *settings: str) -> float:
    """A run of that name, anew."""
    shutil.rmtree(folder / "s" / "runs", ignore_errors=True)
    more = [part for setting in settings for part in ("--set", setting)]
    return run_command("run", folder / "job.yaml", "--id", name, *more)


def training_seconds(folder: Path, name: str) -> float:
    """Of the phase `train`."""
    seconds: dict[str, float] = result_of(folder / "s", f"bench/{name}")["seconds"]
    return seconds["train"]


if __name__ == "__main__":
    main()
