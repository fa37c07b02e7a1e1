"""`heliostat predict` and `evaluate` with boosted trees, whole commands: two million rows of 28
floats against a plain script that reads with pyarrow, scores with the same booster and writes
Parquet; and twenty rows, where it is start-up alone that counts.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from tests.bench.boosted import COLUMNS, ROWS, write_rows
from tests.bench.figures import at_most, compare, measure, run_command, run_script

NATIVE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.dataset as ds, pyarrow.parquet as pq, xgboost
source, model, out = sys.argv[1:]
table = ds.dataset(source).to_table()
x = np.stack([table[c].to_numpy() for c in table.column_names if c != 'y'], 1)
booster = xgboost.Booster(model_file=model)
p = booster.inplace_predict(x)
table = table.append_column('prediction', pa.array(p > 0.5)).append_column('probability', pa.array(p))
pq.write_table(table, out)
"""
MODELS = {
    "xgboost": "{kind: xgboost, max_depth: 6}",
    "linear": "{kind: linear}",
    "mlp": "{kind: mlp, hidden: [64]}",
}


def main() -> None:
    """Report the ratio at two million rows, and seconds at twenty."""
    folder = Path(tempfile.mkdtemp())
    try:
        write_rows(folder / "data")
        large(folder)
        small(folder)
    finally:
        shutil.rmtree(folder)


def train(folder: Path, name: str, source: Path, model: str, train: str) -> Path:
    """The model folder of a run."""
    job = folder / f"{name}.yaml"
    job.write_text(
        f"name: {name}\nstorage: {folder}/s\n"
        f"data: {{source: {source}, target: y, task: binary}}\nmodel: {model}\n{train}\n"
    )
    run_command("run", job, "--id", "only")
    return folder / "s" / "runs" / name / "only" / "model"


def large(folder: Path) -> None:
    """Against the script."""
    model = train(folder, "large", folder / "data", MODELS["xgboost"], "train: {rounds: 100}")

    def ours() -> float:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return run_command("predict", model, "--data", folder / "data", "--out", folder / "out")

    compare(
        f"predict, {ROWS:,} x {COLUMNS}, XGBoost of 100 rounds, to native",
        ours,
        lambda: run_script(NATIVE, folder / "data", model / "booster.ubj", folder / "out.parquet"),
        at_most(1.2),
    )


def small(folder: Path) -> None:
    """Twenty rows."""
    (folder / "few").mkdir()
    first = pq.read_table(folder / "data" / "00.parquet")
    pq.write_table(first.slice(0, 2000), folder / "some.parquet")
    pq.write_table(first.slice(0, 20), folder / "few" / "rows.parquet")
    for kind, model in MODELS.items():
        lines = {"xgboost": "train: {rounds: 10}", "mlp": "train: {epochs: 1}"}.get(kind, "")
        own = train(folder, kind, folder / "some.parquet", model, lines)

        def predict(own: Path = own) -> float:
            shutil.rmtree(folder / "out", ignore_errors=True)
            return run_command("predict", own, "--data", folder / "few", "--out", folder / "out")

        def evaluate(own: Path = own) -> float:
            return run_command("evaluate", own, "--data", folder / "few")

        for verb, work in (("predict", predict), ("evaluate", evaluate)):
            measure(f"{verb}, 20 rows, {kind}", work, "s", at_most(1.5))


if __name__ == "__main__":
    main()
