"""Successive halving against random search: the same 27 configurations, ten seeds, three real data
sets, by accuracy and by loss. What the best trial's validation metric is, and how many epochs it
took in all.

The data sets are scikit-learn's own copies (digits, breast cancer) and the flights. Decisions are
taken by the sweep's own policy; the trainings of a seed run in one process, one after another.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer, load_digits

from heliostat.data import prepare as prepare_module
from heliostat.parallel.world import SoloWorld
from heliostat.plan.plan import Plan, plan_job
from heliostat.spec.load import load_job
from heliostat.storage.lease import Lease
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.control import NoControl
from heliostat.train.events import Finished, Stopped, Validated
from heliostat.train.job import train_events
from heliostat.tune.desk import Desk
from heliostat.tune.halving import rule_of
from heliostat.tune.policy import Policy
from heliostat.tune.search import ListedSearch
from heliostat.tune.work import FINISHED, PAUSED, Outcome, Work

ROOT = Path(__file__).parent.parent.parent
TRIALS, EPOCHS, SEEDS = 27, 9, 10
OBJECTIVES = os.environ.get("OBJECTIVES", "accuracy log_loss").split()
SPACE = (
    "{train.optimizer.learning_rate: {low: 0.0001, high: 0.3, log: true}, "
    "train.optimizer.weight_decay: {low: 0.0001, high: 1.0, log: true}, "
    "model.dropout: {low: 0.0, high: 0.6}, train.batch_size: [64, 256, 1024]}"
)


def main() -> None:
    """Print, for each data set, both bests with intervals, and the share of epochs."""
    folder = Path(tempfile.mkdtemp())
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process
    for (name, data), objective in product(sources(folder).items(), OBJECTIVES):
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(partial(compared, folder, name, data, objective), range(SEEDS)))
        plain, halved, shares = (list(column) for column in zip(*rows, strict=True))
        gains = [b - a for a, b in zip(plain, halved, strict=True)]
        print(
            f"{name:>14}: {objective} random {interval(plain)}, asha {interval(halved)}, "
            f"asha less random {interval(gains)}; epochs {fmean(shares):.2f} of random's",
            flush=True,
        )


def interval(values: list[float]) -> str:
    """Mean and a 95 per cent interval (Student's t with nine degrees of freedom)."""
    return f"{fmean(values):.4f} ± {2.262 * stdev(values) / math.sqrt(len(values)):.4f}"


def sources(folder: Path) -> dict[str, str]:
    """The `data` block of each data set."""
    for name, loaded in (("digits", load_digits), ("breast-cancer", load_breast_cancer)):
        frame = loaded(as_frame=True).frame
        frame["target"] = "class " + frame["target"].astype(str)
        pq.write_table(
            pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet"
        )
    flights = ROOT / "jobs" / "data" / "flights"
    if not flights.exists():
        subprocess.run([sys.executable, ROOT / "jobs" / "flights.py"], check=True)
    return {
        "digits": f"{{source: {folder}/digits.parquet, target: target, task: multiclass}}",
        "breast cancer": f"{{source: {folder}/breast-cancer.parquet, target: target, task: binary}}",
        "flights (1/12)": f"{{source: {flights}/flights-01.parquet, target: late, task: binary, "
        "features: {carrier: category, origin: category, sched_dep_time: number, "
        "distance: number, day: number, dep_delay: number}}",
    }


def compared(
    folder: Path, name: str, data: str, objective: str, seed: int
) -> tuple[float, float, float]:
    """The best of random search and of asha, and asha's share of the epochs."""
    place = folder / f"{name.split()[0]}-{objective}-{seed}"
    (best, epochs), (halved, fewer) = (
        searched(Path(f"{place}-{scheduler}"), data, objective, seed, scheduler)
        for scheduler in ("none", "asha")
    )
    return best, halved, fewer / epochs


def searched(
    folder: Path, data: str, objective: str, seed: int, scheduler: str
) -> tuple[float, int]:
    """The best validation metric, and the epochs of all trials."""
    folder.mkdir()
    job = folder / "job.yaml"
    job.write_text(
        f"name: bench\nseed: {seed}\nobjective: {objective}\ndata: {data}\n"
        f"model: {{kind: mlp, hidden: [64, 64]}}\ntrain: {{epochs: {EPOCHS}}}\n"
        f"tune: {{trials: {TRIALS}, scheduler: {{SCHEDULER}}, space: {SPACE}}}\n".replace(
            "{SCHEDULER}", "none" if scheduler == "none" else "{name: asha, mode: promote}"
        )
    )
    plan = plan_job(load_job(job))
    prepared = prepared_here(plan, folder.parent / "prepared")
    lease = Lease.acquire(folder / "lease")
    assert lease is not None and plan.job.spec.tune is not None
    rule = rule_of(plan.job.spec.tune.scheduler, plan.job.spec.objective_goal)
    policy = Policy(ListedSearch(plan.trials), rule, plan.rungs, (None,), repr)
    scores: list[float] = []
    desk = Desk(
        policy, lambda work: None,
        lambda ended: scores.append(ended.score) if ended.status == FINISHED else None,
    )  # fmt: skip
    epochs = 0
    while (work := desk.next()) is not None:
        place = RunPlace(
            str(folder / str(work.trial.index)),
            str(folder / "lease"),
            lease.token,
            keeps_best=False,
        )
        outcome, spent = trained(plan, prepared, work, place)
        epochs += spent
        desk.take([outcome])
    best = max if plan.job.spec.objective_goal == "max" else min
    return best(filter(math.isfinite, scores)), epochs


def trained(plan: Plan, prepared: str, work: Work, place: RunPlace) -> tuple[Outcome, int]:
    """A work's outcome, and how many epochs it took."""
    value = plan.job.replace(work.trial.config).spec.model_dump(mode="json", by_alias=True)
    assignment = Assignment(
        job=value, columns=plan.columns, prepared=prepared, data_digest="d", code=None,
        code_digest="c", model_folder=None, place=place, final=False, until=work.until,
    )  # fmt: skip
    spent, score, progress, status = 0, math.nan, 0, PAUSED
    for event in train_events(assignment, SoloWorld(), NoControl()):
        if isinstance(event, Validated):
            spent, score, progress = spent + 1, event.score, event.progress
        elif isinstance(event, Finished):
            status, score = FINISHED, event.score
        elif isinstance(event, Stopped):
            status = PAUSED
    return Outcome(work, status, progress, score, {}), spent


def prepared_here(plan: Plan, folder: Path) -> str:
    """The prepared copy, packed in this process."""

    def one_by_one(units, work, num_tasks, patience_seconds):  # type: ignore[no-untyped-def]
        for unit in units:
            yield work(unit) | {"index": unit.index}

    prepare_module.run_units = one_by_one
    return str(prepare_module.prepare(plan, folder, 1, lambda done, total: None).folder)


if __name__ == "__main__":
    main()
