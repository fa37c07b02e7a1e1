"""Give a finished run's model a name, if it is better than the one that has it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import ArtifactError, HeliostatError, Problem, UserError
from heliostat.report.result import Result
from heliostat.storage.files import read_json, understood
from heliostat.storage.lease import Lease
from heliostat.storage.lines import tell_once
from heliostat.storage.promoted import lock_place, read_promoted, write_promoted
from heliostat.storage.runs import RunFolder, Storage


@dataclass(frozen=True)
class Promotion:
    """Whether the name points at the run now, and a sentence that says why."""

    promoted: bool
    reason: str


def promote(storage: Storage, folder: RunFolder, name: str, if_better: bool) -> Promotion:
    """Point MODEL@ALIAS at a run; with `if_better` only where its objective on validation beats
    that of the run which has the name.

    Raises:
        UserError: the run has not succeeded, or the two scores cannot be compared.
        HeliostatError: somebody else changes the name at the moment.
    """
    lock_place(storage.root, name).parent.mkdir(parents=True, exist_ok=True)
    lease = Lease.acquire(lock_place(storage.root, name))
    if lease is None:
        raise HeliostatError(f"`{name}` is being changed by another process; try again")
    with lease.kept():
        value = _value(folder)
        now = _now(storage, name, if_better)
        if now is not None and now["run"] == folder.reference:
            return Promotion(True, f"{name} is {folder.reference} already")
        if if_better and value["score"] is None:
            raise _no_score(value)
        reason = f"{name} is {folder.reference} now"
        if if_better and now is not None:
            is_better, compared = _compared(value, now)
            if not is_better:
                return Promotion(False, f"{name} stays {now['run']}: {compared}")
            reason = f"{reason}: {compared}"
        write_promoted(storage.root, name, value, now)
    return Promotion(True, reason)


def _now(storage: Storage, name: str, if_better: bool) -> dict[str, Any] | None:
    """What has the name. What cannot be read is replaced, unless it is to be compared with."""
    try:
        return read_promoted(storage.root, name)
    except ArtifactError as error:
        if if_better:
            raise
        tell_once(f"{error}; it is replaced")
        return None


def _value(folder: RunFolder) -> dict[str, Any]:
    status = folder.read_state()["status"]
    if status != "SUCCEEDED" or not (folder.model / DESCRIPTION).exists():
        raise UserError(Problem("promote", f"{folder.reference} is {status}: it has no model"))
    description = read_json(folder.model / DESCRIPTION)
    with understood(folder.model / DESCRIPTION):
        missing = [name for name in description["files"] if not (folder.model / name).exists()]
    if missing:
        raise UserError(Problem("promote", f"{folder.model / missing[0]} is missing"))
    result = Result.load(folder.path)
    metric = str(result.objective["metric"])
    return {
        "run": folder.reference,
        "time": time.time(),
        "objective": dict(result.objective),
        "score": result.metrics.get("validation", {}).get(metric),
        "data_digest": result.digests.get("data"),
    }


def _compared(value: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, str]:
    if value["objective"] != now["objective"]:
        what = f"{value['run']} was chosen by {_goal(value)}, {now['run']} by {_goal(now)}"
        raise UserError(Problem("promote", what, "promote it without --if-better"))
    metric, goal = value["objective"]["metric"], value["objective"]["goal"]
    if now["score"] is None:
        raise _no_score(now)
    mine, theirs = float(value["score"]), float(now["score"])
    is_better = mine > theirs if goal == "max" else mine < theirs
    other_data = value["data_digest"] != now["data_digest"]
    note = " (on other data)" if other_data else ""
    sign = "is better than" if is_better else "is no better than"
    return is_better, f"validation/{metric} {mine:.6g} {sign} {theirs:.6g}{note}"


def _no_score(value: Mapping[str, Any]) -> UserError:
    what = f"{value['run']} has no validation/{value['objective']['metric']} to compare"
    return UserError(Problem("promote", what, "promote it without --if-better"))


def _goal(value: Mapping[str, Any]) -> str:
    return f"{value['objective']['goal']} {value['objective']['metric']}"
