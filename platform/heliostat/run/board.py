"""What a person sees of a sweep: a line a trial that has ended, and a live leaderboard."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from itertools import islice

from heliostat.plan.plan import Plan
from heliostat.report.console import duration_text, number_text
from heliostat.report.live import Leaderboard, TrialTable
from heliostat.run.record import RunRecord
from heliostat.tune.ledger import TrialRecord
from heliostat.tune.work import CUT, RUNNING


class SweepBoard:
    """Keeps the trials in order; costs the same for the first one as for the ten-thousandth."""

    def __init__(self, plan: Plan, record: RunRecord) -> None:
        spec = plan.job.spec
        self._record, self._console = record, record.console
        self._metric, self._unit, self._total = spec.objective_metric, spec.unit, plan.num_trials
        self._sign = -1.0 if spec.objective_goal == "max" else 1.0
        self._ranked: list[tuple[float, str]] = []
        self._records: dict[str, TrialRecord] = {}
        self._ended: Counter[str] = Counter()
        self._unranked: dict[str, None] = {}  # in the order of their begin
        self._num_done = self._num_running = 0
        self._lock = threading.Lock()  # the terminal is drawn by a thread of its own
        self._table = TrialTable(self.leaderboard)

    def trial_ended(
        self, record: TrialRecord, best: TrialRecord | None, num_done: int, num_running: int
    ) -> None:
        """See `SweepView`."""
        text = (
            f"trial {num_done}/{self._total}  {config_text(record)}  "
            f"{self._metric} {score_text(record)}"
        )
        if record.status == CUT:
            text += f"  cut at {record.progress}"
        elif record.error:
            text += f"  failed: {record.error}"
        if best is not None:
            text += f"  best {number_text(best.score)}"
            self._record.scored("validation", self._metric, best.score)
        self._console.line(text)
        self._num_done, self._num_running = num_done, num_running
        self._ended[record.status] += 1
        self._record.progress(num_done / max(1, self._total))
        self._record.gauges.trials(self._ended + Counter(running=self._num_running))
        self._show(record)

    def changed(self, record: TrialRecord, num_running: int) -> None:
        """See `SweepView`."""
        self._num_running = num_running
        self._show(record)

    def noted(self, text: str) -> None:
        """See `SweepView`."""
        self._record.note(text)

    def leaderboard(self, num_rows: int) -> Leaderboard:
        """The trials in their order: with a score the best first, then those without."""
        with self._lock:
            ids = [id_ for _, id_ in self._ranked[:num_rows]]
            ids += islice(self._unranked, max(0, num_rows - len(ids)))
            num_known = len(self._records)
            rows = [
                [str(place), *self._row(self._records[id_])] for place, id_ in enumerate(ids, 1)
            ]
        num_trials = max(self._total, num_known)
        header = ["", self._metric, "status", self._unit, "time", "config"]
        return Leaderboard(self._title(), header, rows, num_trials, num_trials - num_known)

    def _show(self, record: TrialRecord) -> None:
        with self._lock:
            self._rank(record)
        self._console.show(self._table, stays=True)

    def _rank(self, record: TrialRecord) -> None:
        old = self._records.get(record.id)
        if old is not None and old.score is not None:
            place = bisect.bisect_left(self._ranked, (self._sign * old.score, old.id))
            del self._ranked[place]
        self._records[record.id] = record
        self._unranked.pop(record.id, None)
        if record.score is not None:
            bisect.insort(self._ranked, (self._sign * record.score, record.id))
        else:
            self._unranked[record.id] = None

    def _title(self) -> str:
        # A lane may still score what has ended.
        num_running = min(self._num_running, max(0, self._total - self._num_done))
        parts = [f"{self._num_done} of {self._total} trials", f"{num_running} running"]
        parts += [f"{self._ended[s]} {s}" for s in (CUT, "failed") if self._ended[s]]
        eta = self._record.eta_seconds
        if eta is not None and self._num_done < self._total:
            parts.append(f"eta {duration_text(eta)}")
        return ", ".join(parts)

    def _row(self, record: TrialRecord) -> list[str]:
        status = record.status
        if status == RUNNING and record.rungs:
            status = f"at rung {max(record.rungs)}"
        seconds = duration_text(record.seconds) if record.seconds else "-"
        return [score_text(record), status, str(record.progress), seconds, config_text(record)]


def score_text(record: TrialRecord) -> str:
    """A trial's score, with its standard error where it has one."""
    text = number_text(record.score)
    error = record.uncertainty
    return text if error is None else f"{text} ± {number_text(error)}"


def config_text(record: TrialRecord) -> str:
    """`max_depth=6  learning_rate=0.1000`."""
    return "  ".join(f"{k.split('.')[-1]}={number_text(v)}" for k, v in record.config.items())
