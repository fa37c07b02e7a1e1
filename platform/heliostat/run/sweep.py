"""A run whose job has `tune`: trials from the plan, then the best one's model and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from heliostat.data.inherit import DESCRIPTION
from heliostat.data.text import keep_tokenizers
from heliostat.plan.columns import resolve_columns
from heliostat.plan.fuse import MOST_RIDGES, Company, fuse_key, ridge_key, why_not_fused
from heliostat.plan.plan import Plan
from heliostat.plan.space import Configuration
from heliostat.report.leaderboard import num_alike, ranked
from heliostat.run.board import SweepBoard
from heliostat.run.cluster import Cluster, trials_at_once
from heliostat.run.record import RunRecord
from heliostat.run.start import search_of
from heliostat.spec.identity import trial_id
from heliostat.storage.folders import copy_folder
from heliostat.storage.runs import RunFolder, Storage
from heliostat.train.assignment import Assignment
from heliostat.train.crossval import part_of, refitted
from heliostat.train.driver import Watch, build_group, drive
from heliostat.train.workers import GroupSpec
from heliostat.tune.lane import score
from heliostat.tune.lanes import run_sweep
from heliostat.tune.ledger import Ledger, TrialRecord
from heliostat.tune.order import Scoring
from heliostat.tune.pause import Pause
from heliostat.tune.sweep import Sweep, is_paced
from heliostat.tune.work import CUT, FINISHED, Trial, Work

if TYPE_CHECKING:
    from heliostat.train.cohort_size import CohortSize


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
    assert spec.tune is not None
    ledger = Ledger(storage.ledger(spec.name), folder.reference)
    trials = Trials(plan, base, storage)
    num_known = _num_known(plan, trials, ledger)
    if num_known:
        record.console.line(
            f"{num_known} of {plan.num_trials} trials are in the ledger; they are not run again"
        )
    sweep = Sweep(
        plan=plan,
        search=search_of(plan, storage, ledger, record.note),
        folds=trials.folds,
        identify=trials.identify,
        assign=trials.assignment,
        ledger=ledger,
        models=trials.models,
        checkpoints=trials.checkpoints,
        metrics_folder=folder.metrics,
        company=_company(plan, trials, ledger, record, watch),
        scoring=lambda best: trials.scoring(best) if plan.job.spec.scale.num_workers == 1 else None,
        group=_group(plan),
        concurrency=trials_at_once(plan, cluster),
        stop_requested=watch.stop_requested,
        deadline=watch.deadline,
        limit=watch.limit,
        view=SweepBoard(plan, record),
        pause=Pause(folder.path / f"pause-{trials.base_place.token:05d}.json"),
    )
    best, keeper = run_sweep(sweep)
    record.console.rest()
    _tell_uncertainty(plan, ledger, record)
    if keeper.scored is None:
        metrics, details = _best_model(plan, trials, best, folder, record, watch)
    else:
        metrics, details = keeper.scored.metrics, keeper.scored.details
    copy_folder(trials.models / best.id, folder.model, DESCRIPTION)
    own = [r for r in ledger.records.values() if r.run == folder.reference]
    busy = sum(record.seconds for record in own)
    return SweepOutcome(best, metrics, details, keeper.num_ended, keeper.num_reused, busy)


def _company(
    plan: Plan, trials: Trials, ledger: Ledger, record: RunRecord, watch: Watch
) -> Callable[[Work], Company | None]:
    if plan.job.spec.scale.num_workers > 1:
        return lambda work: None
    return partial(trials.company, _cohort(plan, trials, ledger, record, watch))


def _cohort(plan: Plan, trials: Trials, ledger: Ledger, record: RunRecord, watch: Watch) -> int:
    """How many trials train as one stacked model, which a first one's steps tell."""
    tune, scale = plan.job.spec.tune, plan.job.spec.scale
    assert tune is not None
    if not tune.fuse:
        return 1
    config = plan.trials[0] if plan.trials else {}
    first = Work(Trial("measured", 0, dict(config)), trials.folds[0])
    reason = why_not_fused(trials.assignment(first).spec)
    if reason is not None:
        told, size = f"trained one by one: {reason}", 1
    else:
        needs = {"num_cpus": scale.resources.cpu, "num_gpus": scale.resources.gpu}
        own_rows = "seed" in tune.space
        measuring = _measured.options(**needs).remote(
            trials.assignment(first), plan.num_trials, own_rows
        )
        measured = watch.answer_of(measuring, "the measuring of trials trained together")
        told, size = measured.why, measured.size
    record.console.line(f"fuse      {told}")
    ledger.tell({"fuse": told})
    return size


@ray.remote  # type: ignore[untyped-decorator]
def _measured(assignment: Assignment, most: int, own_rows: bool) -> CohortSize:
    from heliostat.train.cohort_size import measured_cohort  # torch

    return measured_cohort(assignment, most, own_rows)


def _tell_uncertainty(plan: Plan, ledger: Ledger, record: RunRecord) -> None:
    rows = [vars(trial) for trial in ledger.records.values() if trial.status in (FINISHED, CUT)]
    alike = num_alike(ranked(rows, plan.job.spec.objective_goal))
    if alike:
        record.note(
            f"the best trial cannot be told from the next {alike}, by their standard errors"
        )


def _num_known(plan: Plan, trials: Trials, ledger: Ledger) -> int:
    """How many of the trials that can be told ahead need not run again."""
    if not ledger.records:
        return 0
    records = [ledger.records.get(trials.identify(config)) for config in plan.trials]
    cuts = plan.rungs != ()
    return sum(
        r is not None and (r.status == FINISHED or (cuts and r.status == CUT)) for r in records
    )


def _best_model(
    plan: Plan,
    trials: Trials,
    best: TrialRecord,
    folder: RunFolder,
    record: RunRecord,
    watch: Watch,
) -> tuple[Mapping[str, Mapping[str, float]], Mapping[str, Any]]:
    """Metrics on every side of the best trial's model. With folds it is trained now, on the rows
    of all.
    """
    scoring = trials.scoring(best)
    if scoring is not None:
        told: tuple[Any, Any] = watch.answer_of(_score.remote(scoring), "the best model's scoring")
        return told
    assignment, why = trials.of(best), "was not kept; it is trained again"
    if trials.in_folds:
        assignment, why = refitted(assignment, best.lengths), "is trained on the rows of all folds"
    record.note(f"the model of trial {best.id} {why}")
    place = replace(trials.base_place, checkpoints=str(folder.checkpoints))
    assignment = replace(assignment, place=place, final=True)
    group = build_group(assignment.spec, str(folder.path / "ray"))
    group.start()
    finished = drive(group, assignment, record, watch)
    validation = {"validation": best.metrics} if trials.in_folds else {}
    return {**finished.metrics, **validation}, finished.details


class Trials:
    """A trial is the job with some keys replaced: the same training path, another identity."""

    def __init__(self, plan: Plan, base: Assignment, storage: Storage) -> None:
        self._plan, self._base, self._storage = plan, base, storage
        assert base.place is not None
        self.base_place = base.place
        ledger = storage.ledger(plan.job.spec.name)
        self.models, self.checkpoints = ledger / "models", ledger / "checkpoints"
        self.models.mkdir(parents=True, exist_ok=True)
        num_folds = plan.job.spec.data.num_folds
        self.folds: tuple[int | None, ...] = (
            (None,) if num_folds is None else tuple(range(num_folds))
        )
        tune = plan.job.spec.tune
        self._is_paced = tune is not None and is_paced(tune, len(self.folds))

    @property
    def in_folds(self) -> bool:
        """Whether a trial is a cross-validation, which leaves no model."""
        return self.folds != (None,)

    def of(self, record: TrialRecord) -> Assignment:
        """The training of a trial in the ledger."""
        return self.assignment(Work(Trial(record.id, record.index, dict(record.config))))

    def scoring(self, best: TrialRecord) -> Scoring | None:
        """How the best trial's model is scored on every side; None: there is none."""
        folder = self.models / best.id
        if self.in_folds or not (folder / DESCRIPTION).exists():
            return None
        return Scoring(best.id, self.of(best), str(folder))

    def identify(self, config: Configuration) -> str:
        """The trial's id."""
        job = self._plan.job.replace(config)
        return trial_id(job.spec, self._base.data_digest, self._base.code_digest)

    def company(self, cohort: int, work: Work) -> Company | None:
        """Which others a work can be trained with, where a stacked model holds `cohort` trials."""
        spec = self._plan.job.replace(work.trial.config).spec
        key, most = (fuse_key(spec), cohort) if cohort > 1 else (None, 1)
        if key is None:
            key, most = ridge_key(spec), MOST_RIDGES
        return None if key is None else Company((key, work.fold, work.until), most)

    def assignment(self, work: Work) -> Assignment:
        """What a lane is told to train."""
        job = self._plan.job.replace(work.trial.config)
        place = replace(
            self.base_place, checkpoints=str(self.checkpoints / work.trial.id), keeps_best=False
        )
        whole = replace(
            self._base,
            job=job.spec.model_dump(mode="json", by_alias=True),
            columns=keep_tokenizers(  # fillings and scalings go by the model
                resolve_columns(job, self._plan.catalog), self._storage.prepared
            ),
            model_folder=str(self.models / work.trial.id),
            place=place,
            final=False,
            until=work.until if self._is_paced else None,
        )
        return whole if work.fold is None else part_of(whole, work.fold)


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


_score = ray.remote(score)
