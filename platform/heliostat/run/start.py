"""The search of a sweep, with what earlier results commend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from heliostat.errors import UserError
from heliostat.plan.plan import Plan
from heliostat.spec.identity import digest_of
from heliostat.storage.runs import Storage
from heliostat.tune.ledger import Ledger
from heliostat.tune.search import (
    ListedSearch,
    Observation,
    Remembered,
    Search,
    StartingFrom,
    TpeSearch,
    within,
)
from heliostat.tune.work import FINISHED


def search_of(plan: Plan, storage: Storage, ledger: Ledger, note: Callable[[str], None]) -> Search:
    """The search that `tune` names; with `start_from`, after what another run's trials have shown.

    Raises:
        UserError: `tune.start_from` names no run with a sweep.
    """
    spec, goal = plan.job.spec, plan.job.spec.objective_goal
    assert spec.tune is not None
    earlier = _earlier(plan, storage)
    search: Search = ListedSearch(plan.trials)
    if spec.tune.search == "tpe":
        value = spec.tune.model_dump(mode="json", include={"space", "scheduler", "start_from"})
        which = digest_of([value, spec.seed, spec.objective_metric])
        tpe = TpeSearch(spec.tune, spec.seed, goal, earlier)
        search = Remembered(tpe, ledger.chosen(which), partial(ledger.choose, which))
    if not earlier:
        return search
    pick = max if goal == "max" else min
    best = pick(earlier, key=lambda observation: observation.score)
    note(f"starts from {spec.tune.start_from}: {len(earlier)} trials, best {best.score:.6g}")
    return StartingFrom(within(spec.tune.space, best.config), search, plan.num_trials)


def _earlier(plan: Plan, storage: Storage) -> list[Observation]:
    """What the trials of the run's name have shown that went to their end."""
    job = plan.job
    start = job.spec.tune.start_from if job.spec.tune else None
    if start is None:
        return []
    try:
        folder = storage.find(start)
    except UserError as error:
        first = error.problems[0]
        raise UserError(job.problem("tune.start_from", first.message, first.hint)) from None
    ledger = Ledger(folder.path.parent / "trials", folder.reference)
    observations = [
        Observation(dict(record.config), record.score, record.progress, True)
        for record in ledger.records.values()
        if record.status == FINISHED and record.score is not None
    ]
    if not observations:
        what = f"no trial of {folder.reference} has come to its end"
        raise UserError(job.problem("tune.start_from", what))
    return observations
