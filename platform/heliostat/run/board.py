"""What a person sees of a sweep: a line a trial that has ended, and a live leaderboard."""

from __future__ import annotations

import bisect
import time
from collections import Counter

from heliostat.plan.plan import Plan
from heliostat.report.console import MAX_TABLE_ROWS, duration_text, number_text
from heliostat.run.record import RunRecord
from heliostat.tune.ledger import TrialRecord
from heliostat.tune.work import CUT, FINISHED

REDRAW_SECONDS = 0.25


class SweepBoard:
    """Keeps the trials that have a score, best first; costs the same for the first trial as for
    the ten-thousandth.
    """

    def __init__(self, plan: Plan, record: RunRecord) -> None:
        spec = plan.job.spec
        self._record, self._console = record, record.console
        self._metric, self._unit, self._total = spec.objective_metric, spec.unit, plan.num_trials
        self._sign = -1.0 if spec.objective_goal == "max" else 1.0
        self._ranked: list[tuple[float, str]] = []
        self._records: dict[str, TrialRecord] = {}
        self._ended: Counter[str] = Counter()
        self._num_done = self._num_running = 0
        self._drawn = 0.0

    def trial_ended(self, record: TrialRecord, best: TrialRecord | None, num_done: int) -> None:
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
        self._console.line(text)
        self._num_done = num_done
        self._ended[record.status] += 1
        self._record.progress(num_done / max(1, self._total))
        self._record.gauges.trials(self._ended + Counter(running=self._num_running))
        self._rank(record)
        self._draw()

    def changed(self, record: TrialRecord, num_running: int) -> None:
        """See `SweepView`."""
        self._num_running = num_running
        self._rank(record)
        self._draw()

    def noted(self, text: str) -> None:
        """See `SweepView`."""
        self._record.note(text)

    def _rank(self, record: TrialRecord) -> None:
        old = self._records.get(record.id)
        if old is not None and old.score is not None:
            place = bisect.bisect_left(self._ranked, (self._sign * old.score, old.id))
            del self._ranked[place]
        self._records[record.id] = record
        if record.score is not None:
            bisect.insort(self._ranked, (self._sign * record.score, record.id))

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._console.interactive or now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        shown = [self._records[id_] for _, id_ in self._ranked[:MAX_TABLE_ROWS]]
        rows = [[str(place), *self._row(record)] for place, record in enumerate(shown, 1)]
        header = ["", self._metric, "status", self._unit, "time", "config"]
        self._console.trials(self._title(), header, rows)

    def _title(self) -> str:
        parts = [f"{self._num_done} of {self._total} trials", f"{self._num_running} running"]
        parts += [f"{self._ended[s]} {s}" for s in (CUT, "failed") if self._ended[s]]
        eta = self._record.eta_seconds
        if eta is not None:
            parts.append(f"eta {duration_text(eta)}")
        return ", ".join(parts)

    def _row(self, record: TrialRecord) -> list[str]:
        status = record.status
        if status != FINISHED and record.rungs and status != CUT:
            status = f"at rung {max(record.rungs)}"
        return [
            score_text(record), status, str(record.progress), duration_text(record.seconds),
            config_text(record),
        ]  # fmt: skip


def score_text(record: TrialRecord) -> str:
    """A trial's score, with its standard error where it has one."""
    text = number_text(record.score)
    error = record.uncertainty
    return text if error is None else f"{text} ± {number_text(error)}"


def config_text(record: TrialRecord) -> str:
    """`max_depth=6  learning_rate=0.1000`."""
    return "  ".join(f"{k.split('.')[-1]}={number_text(v)}" for k, v in record.config.items())
