"""The ledger of a name: every trial that any of its runs ever made, one JSON row at a time.

Rung rows say what a trial had reached where trials are compared; a final row says how it
ended. A later run of the same name reads both and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from heliostat.plan.space import Configuration
from heliostat.spec.tune import AshaScheduler, Scheduler
from heliostat.storage.objects import StorePath
from heliostat.storage.segments import Segments, read_rows

FINISHED, CUT, FAILED = "finished", "cut", "failed"


@dataclass(frozen=True)
class Trial:
    """A configuration to be tried: its identity, and its place in issue order."""

    id: str
    index: int
    config: Configuration


@dataclass(frozen=True)
class TrialRecord:
    """All that the ledger knows of a trial. `score` is None until it has one."""

    id: str
    config: Mapping[str, Any]
    status: str = "running"
    progress: int = 0
    score: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""
    error: str | None = None
    rungs: Mapping[int, float | None] = field(default_factory=dict)

    def is_done(self, scheduler: Scheduler) -> bool:
        """Whether it need not run again: it went to its end, or was cut by a scheduler that
        would cut it now.
        """
        return self.status == FINISHED or (
            self.status == CUT and isinstance(scheduler, AshaScheduler)
        )


class Ledger:
    """Reads all segments at the start, then appends to one of its own."""

    def __init__(self, folder: StorePath, run: str) -> None:
        self._segments, self._run = Segments(folder), run
        self.records: dict[str, TrialRecord] = {}
        for row in read_rows(folder):
            self._take(row)

    def rung(
        self, trial: Trial, rung: int, progress: int, metrics: Mapping[str, Any], score: float
    ) -> None:
        """A trial has reached a rung."""
        self._write(
            {
                "kind": "rung",
                "id": trial.id,
                "index": trial.index,
                "config": trial.config,
                "rung": rung,
                "progress": progress,
                "score": score,
                "metrics": dict(metrics),
            }
        )

    def final(
        self,
        trial: Trial,
        status: str,
        progress: int,
        score: float | None,
        metrics: Mapping[str, Any],
        seconds: float,
        error: str | None = None,
    ) -> None:
        """A trial has ended."""
        self._write(
            {
                "kind": "final",
                "id": trial.id,
                "index": trial.index,
                "config": trial.config,
                "status": status,
                "progress": progress,
                "score": score,
                "metrics": dict(metrics),
                "seconds": round(seconds, 3),
                "run": self._run,
                "error": error,
            }
        )

    def rung_scores(self, rung: int) -> Iterator[float]:
        """Scores of all trials that have reached `rung`."""
        for record in self.records.values():
            score = record.rungs.get(rung)
            if score is not None:
                yield score

    def _write(self, row: dict[str, Any]) -> None:
        self._segments.append([row])
        self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        score = row["score"]
        score = score if score is not None and score == score else None
        old = self.records.get(row["id"], TrialRecord(row["id"], row["config"]))
        if row["kind"] == "rung":
            status = "running" if old.status == FAILED else old.status
            rungs = {**old.rungs, row["rung"]: score}
            self.records[row["id"]] = TrialRecord(
                row["id"],
                row["config"],
                status,
                row["progress"],
                score,
                row["metrics"],
                rungs=rungs,
            )
        else:
            self.records[row["id"]] = TrialRecord(
                row["id"],
                row["config"],
                row["status"],
                row["progress"],
                score,
                row["metrics"],
                row["seconds"],
                row["run"],
                row["error"],
                old.rungs,
            )
