"""Which run this is: a new one, one to continue, or one that somebody else is running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.catalog.code import NO_CODE, code_digest
from heliostat.errors import ArtifactError, PlanError, Problem, UserError
from heliostat.plan.diff import differences
from heliostat.plan.plan import Plan
from heliostat.report.console import Console
from heliostat.spec.identity import digest_of
from heliostat.spec.job import JobSpec
from heliostat.storage.files import read_as, write_json
from heliostat.storage.lease import Lease
from heliostat.storage.lines import tell_once
from heliostat.storage.runs import IDENTITY, RunFolder, Storage, new_run_id

FREE_KEYS = ("scale", "limits", "cluster", "labels", "storage", "secrets", "track")
GROWING_KEYS = ("trials", "concurrency", "space")


@dataclass(frozen=True)
class _Identity:
    """What a run began as."""

    identity: str
    fixed: dict[str, Any]
    job: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A run folder, and the lease on it (None: another process holds it)."""

    folder: RunFolder
    lease: Lease | None
    identity: str
    code_digest: str


def claim_run(
    plan: Plan, storage: Storage, run_id: str | None, resume: str | None, console: Console
) -> Claim:
    """Find or make the run's folder and take its lease.

    Raises:
        UserError: the run to resume does not exist, or the job is not the same any more.
    """
    code = plan.job.spec.code
    digest = code_digest(Path(code.path), code.patterns) if code else NO_CODE
    fixed = _fixed_part(plan, digest)
    identity = digest_of(fixed)
    if resume is not None:
        folder = storage.find(resume or plan.job.spec.name)
    elif run_id is not None:
        folder = storage.run(plan.job.spec.name, run_id)
    else:
        _mention_interrupted(plan, storage, identity, console)
        folder = storage.run(plan.job.spec.name, new_run_id())
    known = (folder.path / IDENTITY).exists()
    if known:
        _check_same_job(folder, plan.job.spec, fixed, console)
        if folder.read_state()["status"] == "SUCCEEDED":
            return Claim(folder, None, identity, digest)
    folder.path.mkdir(parents=True, exist_ok=True)
    lease = Lease.acquire(folder.lease)
    if lease is not None:
        folder.stop_request.unlink(missing_ok=True)
        write_json(
            folder.path / IDENTITY, {"identity": identity, "fixed": fixed, "job": _dump(plan)}
        )
    return Claim(folder, lease, identity, digest)


def _dump(plan: Plan) -> dict[str, Any]:
    value: dict[str, Any] = plan.job.spec.model_dump(mode="json", by_alias=True)
    return value


def _fixed_part(plan: Plan, digest: str) -> dict[str, Any]:
    """What may not change when a run is resumed."""
    value = _dump(plan)
    for key in FREE_KEYS:
        value.pop(key, None)
    if value.get("tune"):
        value["tune"] = {k: v for k, v in value["tune"].items() if k not in GROWING_KEYS}
    value["data"].pop("source")
    return value | {"data digest": plan.catalog.digest, "code digest": digest}


def _check_same_job(
    folder: RunFolder, spec: JobSpec, fixed: Mapping[str, Any], console: Console
) -> None:
    try:
        stored = read_as(folder.path / IDENTITY, _Identity)
    except ArtifactError as error:
        what = f"{error}; it cannot be seen whether the job is still the same"
        raise UserError(Problem(folder.reference, what, "start a new run")) from error
    changed = differences(stored.fixed, fixed)
    if changed:
        listed = "; ".join(f"{key}: {old!r} became {new!r}" for key, old, new in changed)
        raise PlanError(
            Problem(
                folder.reference,
                f"the job is not the one that this run began with: {listed}",
                "run it without `--resume` as a new run; only scale, limits, cluster and growth "
                "of tune may change",
            )
        )
    now = spec.model_dump(mode="json", by_alias=True)
    for key, old, new in differences(stored.job, now):
        console.line(f"changed   {key}: {old!r} -> {new!r}")


def _mention_interrupted(plan: Plan, storage: Storage, identity: str, console: Console) -> None:
    for folder in reversed(list(storage.runs(plan.job.spec.name))):
        try:
            same = read_as(folder.path / IDENTITY, _Identity).identity == identity
        except ArtifactError as error:
            tell_once(f"{error}; this run is passed over")
            continue
        if same and folder.read_state()["status"] in ("INTERRUPTED", "STOPPED"):
            console.line(
                f"note      {folder.reference} of the same job was interrupted; "
                f"`--resume {folder.reference}` would continue it. This is a new run"
            )
            return
