"""Our own numbers on Ray's metrics endpoint, beside Ray's: what a dashboard shows of a run."""

from __future__ import annotations

from typing import Protocol

from heliostat.train.events import Stepped

TRIAL_STATES = ("done", "cut", "failed")


class Gauges(Protocol):
    """Numbers that are scraped while a run goes on."""

    def stepped(self, event: Stepped, when: float) -> None:
        """A logged step."""

    def trials(self, counts: dict[str, int]) -> None:
        """How many trials there are of each state."""


def gauges_of(embedded: bool, run: str) -> Gauges:
    """Those of a cluster that outlives the run."""
    return NoGauges() if embedded else RayGauges(run)


class NoGauges:
    """Nobody scrapes: an embedded cluster ends with its run."""

    def stepped(self, event: Stepped, when: float) -> None:
        """See `Gauges`."""

    def trials(self, counts: dict[str, int]) -> None:
        """See `Gauges`."""


class RayGauges:
    """On the metrics endpoint of the driver's node, as `ray_heliostat_...`, labelled by run."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        def gauge(name: str, text: str, *more: str) -> Gauge:
            made = Gauge(f"heliostat_{name}", text, tag_keys=("run", *more))
            made.set_default_tags({"run": run})
            return made

        self._rows = gauge("rows_per_second", "Training rows a second, all ranks together")
        self._seconds = gauge("step_seconds", "Seconds of an optimizer step, or a boosting round")
        self._loss = gauge("train_loss", "Mean training loss of the last logged steps")
        self._progress = gauge("progress", "Done part of the training, 0 to 1")
        self._trials = gauge("trials", "Trials of a sweep by state", "state")
        self._last: tuple[int, float] | None = None

    def stepped(self, event: Stepped, when: float) -> None:
        """See `Gauges`."""
        self._rows.set(event.rows_per_second)
        self._loss.set(event.loss)
        self._progress.set(event.step / event.num_steps)
        if self._last is not None and event.step > self._last[0]:
            self._seconds.set((when - self._last[1]) / (event.step - self._last[0]))
        self._last = (event.step, when)

    def trials(self, counts: dict[str, int]) -> None:
        """See `Gauges`."""
        for state, count in counts.items():
            self._trials.set(count, {"state": state})
