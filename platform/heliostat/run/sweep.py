"""A run whose job has `tune`: trials from the plan, then the best one's model and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from heliostat.data.inherit import DESCRIPTION
from heliostat.data.text import keep_tokenizers
from heliostat.parallel.world import SoloWorld
from heliostat.plan.columns import resolve_columns
from heliostat.plan.plan import Plan
from heliostat.report.console import Console, duration_text, number_text
from heliostat.run.cluster import Cluster, trials_at_once
from heliostat.run.record import RunRecord
from heliostat.spec.identity import trial_id
from heliostat.storage.folders import copy_folder
from heliostat.storage.objects import StorePath, as_path
from heliostat.storage.runs import RunFolder, Storage
from heliostat.train.artifact import load_model
from heliostat.train.assignment import Assignment, open_data
from heliostat.train.driver import Watch, build_group, drive
from heliostat.train.scoring import final_metrics
from heliostat.train.workers import GroupSpec
from heliostat.tune.ledger import Ledger, Trial, TrialRecord
from heliostat.tune.sweep import Sweep, run_sweep


@dataclass(frozen=True)
class SweepOutcome:
    """The best trial, its metrics on every side, and how many trials were run and reused."""

    best: TrialRecord
    metrics: Mapping[str, Mapping[str, float]]
    details: Mapping[str, Any]
    num_run: int
    num_reused: int
    busy_seconds: float


def tune_job(
    plan: Plan,
    base: Assignment,
    storage: Storage,
    folder: RunFolder,
    record: RunRecord,
    cluster: Cluster,
    watch: Watch,
) -> SweepOutcome:
    """Run the sweep; the best trial's model becomes the run's."""
    spec = plan.job.spec
    ledger = Ledger(storage.ledger(spec.name), folder.reference)
    models = storage.ledger(spec.name) / "models"
    models.mkdir(parents=True, exist_ok=True)
    trials, assignments = _trials(plan, base, storage, models)
    known = sum(
        trial.id in ledger.records and ledger.records[trial.id].is_done(spec.tune.scheduler)
        for trial in trials
        if spec.tune is not None
    )
    if known:
        record.console.line(
            f"{known} of {len(trials)} trials are in the ledger; they are not run again"
        )
    sweep = Sweep(
        plan=plan,
        trials=trials,
        assignments=assignments,
        ledger=ledger,
        models=models,
        metrics_folder=folder.metrics,
        group=_group(plan),
        concurrency=trials_at_once(plan, cluster),
        stop_requested=watch.stop_requested,
        deadline=watch.deadline,
        limit=watch.limit,
        view=_View(plan, record, record.console, ledger, trials, known),
    )
    best = run_sweep(sweep)
    record.console.rest()
    assignment = assignments[next(trial.index for trial in trials if trial.id == best.id)]
    if not (models / best.id / DESCRIPTION).exists():
        record.note(f"the model of trial {best.id} was not kept; it is trained again")
        group = build_group(assignment.spec, str(folder.path / "ray"))
        group.start()
        drive(group, assignment, record, watch)
    copy_folder(models / best.id, folder.model, DESCRIPTION)
    metrics, details = ray.get(_score_best.remote(assignment, str(folder.model)))
    if "validation" not in metrics:  # the folds' means
        metrics = {**metrics, "validation": best.metrics}
    own = [r for r in ledger.records.values() if r.run == folder.reference]
    busy = sum(record.seconds for record in own)
    return SweepOutcome(best, metrics, details, len(trials) - known, known, busy)


def _trials(
    plan: Plan, base: Assignment, storage: Storage, models: StorePath
) -> tuple[list[Trial], dict[int, Assignment]]:
    """A trial is the job with some keys replaced: the same training path, another identity."""
    trials, assignments = [], {}
    for index, config in enumerate(plan.trials):
        job = plan.job.replace(config)
        identity = trial_id(job.spec, base.data_digest, base.code_digest)
        value = job.spec.model_dump(mode="json", by_alias=True)
        trials.append(Trial(identity, index, config))
        assignments[index] = replace(
            base,
            job=value,
            columns=keep_tokenizers(  # fillings and scalings go by the model
                resolve_columns(job, plan.catalog), storage.prepared
            ),
            model_folder=str(models / identity),
            place=None,
            final=False,
        )
    return trials, assignments


def _group(plan: Plan) -> GroupSpec:
    scale, limits = plan.job.spec.scale, plan.job.spec.limits
    return GroupSpec(
        scale.num_workers,
        scale.resources.cpu,
        scale.resources.gpu,
        scale.resources.memory,
        plan.job.spec.model.family,
        limits.failures,
        limits.start_minutes * 60,
    )


@ray.remote  # type: ignore[untyped-decorator]
def _score_best(assignment: Assignment, model_folder: str) -> tuple[Any, Any]:
    """Metrics of the best model on every side, in a worker."""
    model = load_model(as_path(model_folder))
    return final_metrics(assignment.spec, open_data(assignment), model.predictor, SoloWorld())


class _View:
    """A line a finished trial, with the best repeated; a live table on a terminal."""

    def __init__(
        self,
        plan: Plan,
        record: RunRecord,
        console: Console,
        ledger: Ledger,
        trials: Sequence[Trial],
        known: int,
    ) -> None:
        self.plan, self.record, self.console = plan, record, console
        self.ledger, self.trials, self.known = ledger, trials, known

    def trial_ended(self, record: TrialRecord, best: TrialRecord | None, num_done: int) -> None:
        """See `SweepView`."""
        metric = self.plan.job.spec.objective_metric
        total = len(self.trials)
        done = self.known + num_done
        config = "  ".join(f"{k.split('.')[-1]}={number_text(v)}" for k, v in record.config.items())
        text = f"trial {done}/{total}  {config}  {metric} {number_text(record.score)}"
        if record.status == "cut":
            text += f"  cut at {record.progress}"
        elif record.error:
            text += f"  failed: {record.error}"
        if best is not None:
            text += f"  best {number_text(best.score)}"
        self.console.line(text)
        self.record.progress(done / total)
        self.record.gauges.trials(Counter(self._states()))
        self._table(metric, done)

    def _states(self) -> list[str]:
        ids = {trial.id for trial in self.trials}
        return [r.status for r in self.ledger.records.values() if r.id in ids]

    def _table(self, metric: str, done: int) -> None:
        if not self.console.interactive:
            return
        reverse = self.plan.job.spec.objective_goal == "max"
        ids = {trial.id for trial in self.trials}
        records = [r for r in self.ledger.records.values() if r.id in ids and r.score is not None]
        records.sort(key=lambda r: r.score or 0.0, reverse=reverse)
        rows = [
            [
                str(place),
                number_text(r.score),
                r.status,
                str(r.progress),
                duration_text(r.seconds),
                "  ".join(f"{k.split('.')[-1]}={number_text(v)}" for k, v in r.config.items()),
            ]
            for place, r in enumerate(records, 1)
        ]
        header = ["", metric, "status", self.plan.job.spec.unit, "time", "config"]
        self.console.trials(f"{done} of {len(self.trials)} trials", header, rows)
