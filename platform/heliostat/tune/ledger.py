"""The ledger of a name: every trial that any of its runs ever made, one JSON row at a time.

Rung rows say what a trial (or one of its folds) had reached where trials are compared, fold rows
how a fold ended; a final row says how the trial ended. A later run of the same name reads them
all and repeats nothing. A chosen row keeps a configuration that followed from others. A sweep row
holds what all runs of the name must agree in, and what a run says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from heliostat.plan.space import Configuration
from heliostat.storage.lines import Note, tell_once
from heliostat.storage.objects import StorePath
from heliostat.storage.rows import ledger_fault
from heliostat.storage.segments import Segments, read_rows
from heliostat.tune.halving import CUTS, ON
from heliostat.tune.work import (
    CUT,
    FAILED,
    FINISHED,
    PAUSED,
    RUNNING,
    Ended,
    Key,
    Outcome,
    Trial,
    Work,
)


@dataclass(frozen=True)
class TrialRecord:
    """All that the ledger knows of a trial. `score` is None until it has one; `uncertainty` is its
    standard error; `lengths` is how long each fold trained.
    """

    id: str
    index: int
    config: Mapping[str, Any]
    status: str = RUNNING
    progress: int = 0
    score: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""
    error: str | None = None
    uncertainty: float | None = None
    folds: tuple[Mapping[str, Any], ...] = ()
    lengths: tuple[int, ...] = ()
    rungs: Mapping[int, float | None] = field(default_factory=dict)


class Ledger:
    """Reads all segments at the start, then appends to one of its own."""

    def __init__(self, folder: StorePath, run: str, note: Note = tell_once) -> None:
        self._segments, self._run = Segments(folder), run
        self.records: dict[str, TrialRecord] = {}
        self.facts: dict[str, Any] = {}
        self._outcomes: dict[Key, Mapping[str, Any]] = {}
        self._seconds: dict[str, float] = {}
        self._chosen: dict[str, dict[int, Configuration]] = {}
        for row in read_rows(folder, note, ledger_fault):
            self._take(row)

    def agree(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the runs of the name agree in: of each fact, what the first run said."""
        new = {name: value for name, value in facts.items() if name not in self.facts}
        if new:
            self._write({"kind": "sweep", **new})
        return self.facts

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Keep facts of this run."""
        self._write({"kind": "sweep", **facts})

    def chosen(self, search: str) -> Mapping[int, Configuration]:
        """The configurations that a search has chosen, by the trial's index."""
        return self._chosen.setdefault(search, {})

    def choose(self, search: str, index: int, config: Configuration) -> None:
        """A search has chosen a configuration."""
        self._write({"kind": "chosen", "search": search, "index": index, "config": config})

    def outcome(self, outcome: Outcome) -> None:
        """A work has paused at its rung, or a fold has finished."""
        work = outcome.work
        self._write(
            {
                "kind": "rung" if outcome.status == PAUSED else "fold",
                **_named(work.trial),
                "fold": work.fold,
                "rung": work.until,
                "progress": outcome.progress,
                "score": outcome.score,
                "metrics": dict(outcome.metrics),
                "seconds": round(outcome.seconds, 3),
            }
        )

    def final(self, ended: Ended) -> TrialRecord:
        """A trial has ended."""
        self._write(
            {
                "kind": "final",
                **_named(ended.trial),
                "status": ended.status,
                "progress": ended.progress,
                "score": ended.score,
                "metrics": dict(ended.metrics),
                "seconds": round(ended.seconds, 3),
                "run": self._run,
                "error": ended.error,
                "uncertainty": ended.uncertainty,
                "folds": [dict(metrics) for metrics in ended.folds],
                "lengths": list(ended.lengths),
            }
        )
        return self.records[ended.trial.id]

    def seconds(self, trial_id: str) -> float:
        """What the rungs and folds of a trial have taken so far."""
        return self._seconds.get(trial_id, 0.0)

    def known(self, work: Work, honours_verdicts: bool) -> Outcome | None:
        """What is known of a work; a finished one has passed every rung. What was decided at a
        rung stays so, unless decisions are taken in order and so come out the same by themselves.
        """
        id_, fold, _ = work.key
        row = self._outcomes.get(work.key)
        status = PAUSED if row is not None and work.until is not None else FINISHED
        row = row or self._outcomes.get((id_, fold, None))
        if row is None:
            return None
        verdict = self._verdict(id_, work.until) if honours_verdicts and status == PAUSED else None
        score = row["score"]
        return Outcome(
            work, status, row["progress"], math.nan if score is None else score, row["metrics"],
            row.get("seconds", 0.0), None, row.get("uncertainty"), verdict,
        )  # fmt: skip

    def _verdict(self, trial_id: str, rung: int | None) -> str | None:
        record = self.records[trial_id]
        if record.status == FINISHED or max(record.rungs, default=0) > (rung or 0):
            return ON
        return CUTS if record.status == CUT else None

    def _write(self, row: dict[str, Any]) -> None:
        self._segments.append([row])
        self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == "sweep":
            self.facts |= {name: value for name, value in row.items() if name != "kind"}
            return
        if row["kind"] == "chosen":
            self._chosen.setdefault(row["search"], {})[row["index"]] = row["config"]
            return
        score = row["score"]
        score = score if score is not None and math.isfinite(score) else None
        old = self.records.get(row["id"])
        if old is None:
            old = TrialRecord(row["id"], row["index"], row["config"])
        if row["kind"] == "final":
            self.records[row["id"]] = TrialRecord(
                row["id"], row["index"], row["config"], row["status"], row["progress"], score,
                row["metrics"], row["seconds"], row["run"], row["error"], row.get("uncertainty"),
                tuple(row.get("folds", ())), tuple(row.get("lengths", ())), old.rungs,
            )  # fmt: skip
            if row["status"] == FINISHED and not row.get("folds"):
                self._outcomes[row["id"], None, None] = row
            return
        spent = self._seconds.get(row["id"], 0.0)
        self._seconds[row["id"]] = spent + row.get("seconds", 0.0)
        fold, rung = row.get("fold"), row.get("rung")
        self._outcomes[row["id"], fold, rung] = row
        if rung is not None:
            status = RUNNING if old.status in (FAILED, CUT) else old.status
            self.records[row["id"]] = replace(
                old, status=status, progress=row["progress"], score=score,
                metrics=row["metrics"], rungs={**old.rungs, rung: score},
            )  # fmt: skip


def _named(trial: Trial) -> dict[str, Any]:
    return {"id": trial.id, "index": trial.index, "config": trial.config}
