"""A sweep of boosted trees on the flights, three ways, two at once each: this platform; a plain Ray
Tune script, which reads the Parquet in each trial; Optuna's own loop in one process, which reads it
once. The same configurations, rounds and validation rows' share; wall time from start to end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS, ROUNDS = int(os.environ.get("TRIALS", "64")), 50
ROOT = Path(__file__).parent.parent.parent
FLIGHTS = ROOT / "jobs" / "data" / "flights"
NUMBERS = ["sched_dep_time", "distance", "month", "day", "hour", "dep_delay"]
CATEGORIES = ["carrier", "origin", "dest"]

COMMON = f'''
import sys, json, numpy as np, pandas as pd, xgboost as xgb
NUMBERS, CATEGORIES = {NUMBERS!r}, {CATEGORIES!r}

def load():
    frame = pd.read_parquet("{FLIGHTS}", columns=NUMBERS + CATEGORIES + ["late"]).dropna(subset=["late"])
    for name in CATEGORIES:
        frame[name] = frame[name].astype("category")
    chosen = np.random.default_rng(0).random(len(frame))
    sides = frame[chosen < 0.7], frame[(chosen >= 0.7) & (chosen < 0.85)]
    return [(side[NUMBERS + CATEGORIES], side["late"].astype(int)) for side in sides]

def train(sides, config):
    from sklearn.metrics import roc_auc_score
    (x, y), (u, v) = sides
    matrix = xgb.QuantileDMatrix(x, y, enable_categorical=True, nthread=1)
    parameters = {{"objective": "binary:logistic", "nthread": 1, **config}}
    booster = xgb.train(parameters, matrix, {ROUNDS})
    held = xgb.QuantileDMatrix(u, v, ref=matrix, enable_categorical=True, nthread=1)
    return roc_auc_score(v, booster.predict(held))
'''

TUNE = """
import ray
from ray import tune
configs = json.loads(sys.argv[1])
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
def trial(config):
    tune.report({"auc": train(load(), config["c"])})
tuner = tune.Tuner(tune.with_resources(trial, {"cpu": 1}), param_space={"c": tune.grid_search(configs)},
                   tune_config=tune.TuneConfig(metric="auc", mode="max"))
print("best", tuner.fit().get_best_result().metrics["auc"])
"""

OPTUNA = """
import optuna
configs = json.loads(sys.argv[1])
sides = load()
study = optuna.create_study(direction="maximize")
study.optimize(lambda trial: train(sides, configs[trial.number]), n_trials=len(configs), n_jobs=2)
print("best", study.best_value)
"""


def main() -> None:
    """Print seconds and ratios."""
    if not FLIGHTS.exists():
        subprocess.run([sys.executable, ROOT / "jobs" / "flights.py"], check=True)
    folder = Path(tempfile.mkdtemp())
    configs = written_job(folder)
    ways = {
        "heliostat": [sys.executable, "-m", "heliostat", "run", str(folder / "job.yaml")],
        "plain Ray Tune": [sys.executable, "-c", COMMON + TUNE, configs],
        "Optuna alone": [sys.executable, "-c", COMMON + OPTUNA, configs],
    }
    seconds = {}
    for name, command in ways.items():
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds[name] = time.perf_counter() - started
        assert done.returncode == 0, done.stderr[-3000:]
        if os.environ.get("SHOW"):
            print(done.stderr[-1500:])
        print(f"{name:>15}: {seconds[name]:6.1f} s for {TRIALS} trials; {done.stdout.split()[-1]}")
    ours = seconds.pop("heliostat")
    for name, other in seconds.items():
        print(f"heliostat takes {ours / other:.2f} of the time of {name}")


def written_job(folder: Path) -> str:
    """The job, and its configurations as the other ways take them."""
    import json

    from heliostat.plan.plan import plan_job
    from heliostat.spec.load import load_job

    features = {**dict.fromkeys(NUMBERS, "number"), **dict.fromkeys(CATEGORIES, "category")}
    (folder / "job.yaml").write_text(
        f"name: bench\nstorage: {folder}/s\nobjective: auc\n"
        f"data: {{source: '{FLIGHTS}/*.parquet', target: late, task: binary, positive: true, "
        f"features: {json.dumps(features)}, "
        "split: {method: random, validation: 0.15, test: 0.15}}\n"
        f"model: {{kind: xgboost}}\ntrain: {{rounds: {ROUNDS}, validate_every: {ROUNDS}}}\n"
        f"tune: {{trials: {TRIALS}, concurrency: 2, space: {{model.max_depth: {{low: 3, high: 9}}, "
        "model.learning_rate: {low: 0.05, high: 0.5, log: true}, "
        "model.colsample_bytree: {low: 0.5, high: 1.0}}}\n"
    )
    plan = plan_job(load_job(folder / "job.yaml"))
    return json.dumps([{k.split(".")[1]: v for k, v in trial.items()} for trial in plan.trials])


if __name__ == "__main__":
    main()
