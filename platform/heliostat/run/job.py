"""`run_job`: plan, folder, lease, cluster, data, training, result; in this order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from heliostat.catalog.code import keep_code
from heliostat.data.inspect import is_small
from heliostat.data.prepare import is_prepared, prepare
from heliostat.data.prepared import Prepared
from heliostat.data.split import split_rows
from heliostat.data.targets import check_split
from heliostat.data.text import keep_tokenizers
from heliostat.data.units import units_of
from heliostat.errors import HeliostatError
from heliostat.plan.plan import Plan, plan_job
from heliostat.plan.text import plan_text
from heliostat.report.console import Console, duration_text
from heliostat.report.follow import follow
from heliostat.report.result import Result
from heliostat.run.ahead import fetch_ahead, imports_ahead
from heliostat.run.begin import check_environment, with_beginning
from heliostat.run.claim import Claim, claim_run
from heliostat.run.closing import tell_result
from heliostat.run.cluster import (
    Cluster,
    check_storage_is_shared,
    connected,
    folds_at_once,
    is_embedded,
    require_capacity,
    require_capacity_here,
    trials_at_once,
    what_starts,
)
from heliostat.run.gauges import gauges_of
from heliostat.run.guardian import Guardian
from heliostat.run.limits import deadline_of
from heliostat.run.record import RunRecord
from heliostat.signals import Signals
from heliostat.spec.load import Job
from heliostat.spec.yaml import yaml_text
from heliostat.storage.files import write_bytes, write_json
from heliostat.storage.lease import Lease
from heliostat.storage.runs import Storage, storage_of
from heliostat.train.assignment import Assignment, RunPlace, open_data
from heliostat.train.driver import Watch, build_group, drive, drive_folds
from heliostat.train.versions import versions
from heliostat.train.workers import WorkerGroup

SMALL_SOURCE_UNITS = 8
PREPARING = "preparing the data"


def run_job(
    job: Job,
    *,
    run_id: str | None = None,
    resume: str | None = None,
    address: str | None = None,
    console: Console | None = None,
    signals: Signals | None = None,
) -> Result:
    """Run a job to its end.

    Args:
        run_id: The run's id; an id that exists is continued, or followed if it is running.
        resume: A run to continue (NAME, NAME/ID); empty for the name's latest.
        address: A Ray cluster; default RAY_ADDRESS, else one embedded in this process.
        signals: Those that are being caught already; default: caught here, while the run lasts.

    Raises:
        UserError: the job, its data or the arguments are wrong; no training was started.
        HeliostatError: see the tree in `heliostat.errors`.
    """
    if signals is None:
        with Signals().caught() as caught:
            return run_job(
                job, run_id=run_id, resume=resume, address=address, console=console, signals=caught
            )
    started = time.monotonic()
    console = console or Console()
    check_environment(job)
    plan = plan_job(job)
    storage = Storage.at(storage_of(job))
    goes_on = resume is not None or (run_id and storage.run(job.spec.name, run_id).exists)
    if is_embedded(address) and not goes_on:
        require_capacity_here(plan)  # of one that goes on once it is known not to run elsewhere
    storage = Storage.open(storage_of(job))
    job = job.replace({"storage": str(storage.root)})  # what is kept of it is found from anywhere
    plan = replace(plan, job=with_beginning(job, storage))
    plan = replace(plan, columns=keep_tokenizers(plan.columns, storage.prepared))
    claim = claim_run(plan, storage, run_id, resume, console)
    if claim.lease is None:
        return follow(claim.folder, console)
    signals.tell(lambda: None)  # from here on it is the run that hears of them
    clock = _Clock({"plan": time.monotonic() - started}, started)
    return _Run(plan, storage, claim, claim.lease, console, clock, address, signals).execute()


@dataclass
class _Clock:
    """Seconds by phase."""

    seconds: dict[str, float]
    started: float

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        begin = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin


@dataclass
class _Outcome:
    metrics: Any
    details: Any
    busy_seconds: float
    best: dict[str, Any] | None = None
    trials: dict[str, int] = field(default_factory=dict)
    folds: Sequence[Mapping[str, float]] = ()


class _Run:
    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        claim: Claim,
        lease: Lease,
        console: Console,
        clock: _Clock,
        address: str | None,
        signals: Signals,
    ) -> None:
        self.plan, self.spec, self.storage, self.folder = plan, plan.job.spec, storage, claim.folder
        self.console, self.clock, self.address, self.claim = console, clock, address, claim
        self.record = RunRecord(self.folder, lease, console, self.spec)
        self.lease, self.signals = lease, signals
        self._copy: Prepared | None = None
        deadline = deadline_of(self.spec.limits, clock.started, time.monotonic(), 0)
        self.guardian = Guardian(self.record, signals, deadline)

    def execute(self) -> Result:
        """Do it all; whatever happens, `state.json` tells the truth about it."""
        with self.guardian.watching():
            try:
                result = self._work()
            except BaseException as error:
                told = self._end(error)
                raise told from (None if isinstance(error, HeliostatError) else error)
            self.record.end(None)
        return result

    def _end(self, error: BaseException) -> BaseException:
        """Write how the run ended; the error that says so."""
        told = self.guardian.told(error)
        self.record.end(told, self.signals.requested)
        return self.record.outcome or told

    def _work(self) -> Result:
        self._write_plan()
        self.console.line(f"run       {self.folder.reference} in {self.storage.root}")
        self.console.block(plan_text(self.plan))
        # What a small source holds, and whether a model can be learned from it, is known at once.
        known = is_small(self.plan) or is_prepared(self.plan, self.storage.prepared)
        self._copy = self._prepared_copy(0) if known else None
        importing = imports_ahead(self.spec, is_embedded(self.address))
        self.console.doing(what_starts(self.address))
        with self._phase("start"):
            context = connected(self.address, importing.start, self.record.note)
            cluster = context.__enter__()
        self.guardian.cluster_trouble = cluster.lifeline.trouble
        try:
            # Not beside the shutdown: Ray ends a process in which anything of its own is
            # collected by another thread while it goes down.
            outcome = self._compute(cluster)
            with self.guardian.during("report"):
                return self._publish(outcome)
        except BaseException as error:
            told = self._end(error)  # before Ray goes down, which takes time
            self.guardian.leave_lost_cluster(told)
            raise
        finally:
            with self.guardian.closing():
                importing.join()
                context.__exit__(None, None, None)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        with self.guardian.during(name), self.clock.phase(name):
            yield

    def _compute(self, cluster: Cluster) -> _Outcome:
        if waiting := require_capacity(self.plan, cluster):
            self.record.note(waiting)
        check_storage_is_shared(self.storage.root)
        self._num_at_once = folds_at_once(self.plan, cluster)
        group = self._start_early(cluster)
        try:
            assignment = self._prepare(cluster)
        except BaseException as error:
            self._end(error)  # before the workers end, which may take a while
            if group is not None:
                group.stop()
            raise
        self.record.gauges = gauges_of(cluster.embedded, self.folder.reference)
        beside = trials_at_once(self.plan, cluster) if self.spec.tune else self._num_at_once
        held = self.plan.gpus * beside
        limits = self.spec.limits
        deadline = deadline_of(limits, self.clock.started, time.monotonic(), held)
        self.guardian.deadline = deadline
        watch = Watch(
            stall_seconds=limits.stall_minutes * 60,
            deadline=deadline.at,
            limit=deadline.limit,
            stop_requested=self.guardian.stop_requested,
        )
        if self.spec.tune is not None:
            return self._tune(assignment, cluster, watch)
        with self._phase("train"):
            if group is None:
                group = self._group(cluster)
                group.start()
            how = drive if self._num_at_once == 1 else drive_folds
            finished = how(group, assignment, self.record, watch)
        return _Outcome(
            finished.metrics, finished.details, finished.seconds["train"], folds=finished.folds
        )

    def _start_early(self, cluster: Cluster) -> WorkerGroup | None:
        """Workers take seconds to come up: start them before the data is prepared, unless they
        would take the CPUs that preparation needs.
        """
        if self.spec.tune is not None:
            return None
        needed = self.plan.cpus * self._num_at_once
        free = float("inf") if cluster.embedded else ray.available_resources().get("CPU", 0.0)
        if not is_prepared(self.plan, self.storage.prepared) and free < needed + 1:
            return None
        group = self._group(cluster)
        group.start()
        return group

    def _group(self, cluster: Cluster) -> WorkerGroup:
        storage = str(self.folder.path / "ray")
        return build_group(self.spec, storage, self._num_at_once, is_alone=cluster.embedded)

    def _prepare(self, cluster: Cluster) -> Assignment:
        plan = self.plan
        prepared = self._copy or self._prepared_copy(self._data_tasks(cluster))
        fetch_ahead(self.storage.prepared / plan.prepared_digest)
        assignment = Assignment(
            job=self.spec.model_dump(mode="json", by_alias=True),
            columns=plan.columns,
            prepared=str(self.storage.prepared / plan.prepared_digest),
            data_digest=plan.catalog.digest,
            code=self._keep_code(),
            code_digest=self.claim.code_digest,
            model_folder=str(self.folder.model),
            place=RunPlace(str(self.folder.checkpoints), str(self.folder.lease), self.lease.token),
        )
        with self._phase("split"):
            data = open_data(assignment)
        self._counts, self._dropped = data.counts, data.split.dropped | dict(data.touched)
        if prepared.filtered:
            self._dropped[f"left out by `data.filter: {self.spec.data.filter}`"] = prepared.filtered
        for name, count in prepared.infinite.items():
            self._dropped[f"{name}: infinite or nearly infinite values taken as missing"] = count
        counts = " + ".join(f"{count:,} {side}" for side, count in self._counts.items())
        self.console.line(f"rows      {counts}")
        for reason, count in self._dropped.items():
            self.console.line(f"cleaned   {count:,} of {plan.catalog.num_rows:,} rows: {reason}")
        self.console.doing("starting the first trials" if self.spec.tune else "starting to train")
        return assignment

    def _prepared_copy(self, num_tasks: int) -> Prepared:
        """The prepared copy, made by so many tasks or in this process; its split fits the job."""
        plan, spec = self.plan, self.spec
        reused = is_prepared(plan, self.storage.prepared)
        if not reused:
            self.console.doing(PREPARING)
        with self._phase("prepare"):
            prepared = prepare(
                plan, self.storage.prepared, num_tasks, self._preparing, self.guardian.check
            )
        seconds = duration_text(self.clock.seconds["prepare"])
        how = "found prepared" if reused else f"prepared in {seconds}"
        self.console.line(f"data      {prepared.num_rows:,} rows {how}")
        with self._phase("split"):
            split = split_rows(prepared, plan.columns, spec.data, spec.seed)
            notes = check_split(spec, plan.columns, prepared, split)
        for note in notes:
            self.record.note(note)
        return prepared

    def _data_tasks(self, cluster: Cluster) -> int:
        """How many units to pack at once: on all CPUs, unless there are few."""
        cpus, catalog = int(cluster.cpus), self.plan.catalog
        if len(units_of(catalog)) > SMALL_SOURCE_UNITS:
            return cpus
        return max(1, cpus - int(self.plan.cpus * self._num_at_once))

    def _preparing(self, done: int, total: int) -> None:
        self.console.doing(PREPARING, f"{done:,} of {total:,} rows")

    def _keep_code(self) -> str | None:
        """The job's own code, copied into the run so that every worker sees the same."""
        if self.spec.code is None:
            return None
        source, patterns = Path(self.spec.code.path), self.spec.code.patterns
        return str(keep_code(source, patterns, self.claim.code_digest, self.folder.path))

    def _tune(self, assignment: Assignment, cluster: Cluster, watch: Watch) -> _Outcome:
        from heliostat.run.sweep import tune_job  # Ray Tune: a second of import

        with self._phase("tune"):
            outcome = tune_job(
                self.plan, assignment, self.storage, self.folder, self.record, cluster, watch
            )
        best = {
            "trial": outcome.best.id,
            "config": dict(outcome.best.config),
            "score": outcome.best.score,
            "uncertainty": outcome.best.uncertainty,
        }
        trials = {"run": outcome.num_run, "reused": outcome.num_reused}
        return _Outcome(
            outcome.metrics, outcome.details, outcome.busy_seconds, best, trials, outcome.best.folds
        )

    def _publish(self, outcome: _Outcome) -> Result:
        spec, plan = self.spec, self.plan
        self.clock.seconds["total"] = time.monotonic() - self.clock.started
        result = Result(
            name=spec.name,
            run=self.folder.reference,
            objective={"metric": spec.objective_metric, "goal": spec.objective_goal},
            metrics=outcome.metrics,
            best=outcome.best,
            rows=self._counts,
            cleaning=self._dropped,
            seconds={k: round(v, 3) for k, v in self.clock.seconds.items()},
            hours=self._hours(outcome.busy_seconds),
            versions=versions(),
            digests={
                "data": plan.catalog.digest,
                "prepared": plan.prepared_digest,
                "code": self.claim.code_digest,
                "job": self.claim.identity,
            },
            trials=outcome.trials,
            folds=outcome.folds,
        )
        result.save(self.folder.path)
        self.record.spent(result.hours)
        if result.scored_on is not None:
            self.record.scored(result.scored_on, self.spec.objective_metric, result.score)
        write_json(self.folder.path / "details.json", outcome.details)
        from heliostat.report.page import write_report  # matplotlib: half a second

        page = write_report(self.folder)
        tell_result(result, page, self.console)
        return result

    def _hours(self, busy_seconds: float) -> dict[str, float]:
        """CPU- and GPU-hours of training; with a price, what the run's pods cost from its begin."""
        hours = {
            "cpu": busy_seconds * self.plan.cpus / 3600,
            "gpu": busy_seconds * self.plan.gpus / 3600,
        }
        price = float(os.environ.get("HELIOSTAT_PRICE_PER_HOUR") or 0)
        return hours | ({"cost": price * self.clock.seconds["total"] / 3600} if price else {})

    def _write_plan(self) -> None:
        folder = self.folder.path
        write_bytes(folder / "plan.txt", plan_text(self.plan).encode())
        write_json(folder / "plan.json", self.plan.to_json())
        write_bytes(folder / "job.yaml", yaml_text(dict(self.plan.job.value)).encode())
