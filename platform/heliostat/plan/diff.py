"""How a job differs from another, or from one that ran: key by key, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.plan.plan import Plan


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in dict.fromkeys((*old, *new)):
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [(key, old, new)]


def diff_lines(plan: Plan, job: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    """What differs between a run (its job, its `plan.json`) and `plan`."""
    now = plan.job.spec.model_dump(mode="json", by_alias=True)
    for key, before, after in differences(job, now):
        yield f"{key}: {before!r} -> {after!r}"
    source = plan.to_json()["source"]
    for name, before, after in differences(old["source"].get("columns", {}), source["columns"]):
        if before is None:
            yield f"column `{name}` ({after}) is new"
        elif after is None:
            yield f"column `{name}` ({before}) has gone"
        else:
            yield f"column `{name}` was {before}, is {after}"
    for what in ("files", "rows", "digest"):
        if old["source"][what] != source[what]:
            yield f"data {what}: {old['source'][what]} -> {source[what]}"
    if old["prepared_digest"] != plan.prepared_digest:
        yield "the source will be prepared again"
