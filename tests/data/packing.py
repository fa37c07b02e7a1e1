"""Prepared copies without Ray: the same packing, in this process."""

from __future__ import annotations

from pathlib import Path

from heliostat.data import prepare as prepare_module
from heliostat.data.prepared import Prepared
from heliostat.data.units import units_of
from heliostat.plan.plan import Plan, plan_job
from heliostat.spec.load import load_job


def plan_of(path: Path, *settings: str) -> Plan:
    return plan_job(load_job(path, settings=settings))


def prepare_here(plan: Plan, folder: Path, monkeypatch) -> Prepared:
    """Prepare as `prepare` does, with tasks run one after another instead of by Ray Data."""

    def run_units(units, work, num_tasks, patience_seconds, waiting=None):
        for unit in units:
            yield work(unit) | {"index": unit.index}

    assert units_of(plan.catalog)
    monkeypatch.setattr(prepare_module, "run_units", run_units)
    return prepare_module.prepare(plan, folder, 1, lambda done, total: None)
