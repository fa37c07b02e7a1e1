"""The written record of a run: state, heartbeat, metrics, log lines.

One background thread keeps the lease and `state.json` fresh, and notices a request to stop.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from heliostat.errors import ArtifactError, LeaseLostError
from heliostat.plan.memory import format_bytes
from heliostat.report.console import Console, duration_text, metric_text, number_text
from heliostat.report.tensorboard import open_board
from heliostat.run.gauges import Gauges, NoGauges
from heliostat.run.webhook import tell_webhook
from heliostat.storage.files import write_json
from heliostat.storage.lease import HEARTBEAT_SECONDS, Lease
from heliostat.storage.runs import RunFolder
from heliostat.storage.segments import Segments
from heliostat.train.events import (
    Committed,
    Event,
    Finished,
    Noted,
    Placed,
    Resumed,
    Stepped,
    Stopped,
    Validated,
)

FLUSH_SECONDS = 1.0


class RunRecord:
    """Writes a run's folder while it holds the lease."""

    def __init__(
        self, folder: RunFolder, lease: Lease, console: Console, labels: Mapping[str, str]
    ) -> None:
        self.folder, self.lease, self.console = folder, lease, console
        self._metrics = Segments(folder.metrics)
        self._board = open_board(folder.path)
        self._log = Segments(folder.logs)
        self._state: dict[str, Any] = {
            "status": "RUNNING",
            "attempt": lease.token,
            "labels": dict(labels),
            "progress": 0.0,
            "eta_seconds": None,
            "error": None,
            "next": f"heliostat logs -f {folder.reference}",
        }
        self.gauges: Gauges = NoGauges()
        self._lock = threading.Lock()
        self._lost: LeaseLostError | None = None
        self._stop_signal = 0
        self._stop_asked = False  # by `heliostat stop`; looked for beside each heartbeat
        self._ended = threading.Event()
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        self._begun = (0.0, 0.0)  # (time, progress) when training started moving
        console.log = self.log
        self._write_state()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def catch_signals(self) -> None:
        """The first Ctrl-C or SIGTERM asks for a graceful stop; the second one kills."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._stop_signal:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._stop_signal = number

        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)

    def stop_requested(self) -> bool:
        """Whether a signal or `heliostat stop` asked for a stop.

        Raises:
            LeaseLostError: another process took the run over.
        """
        if self._lost is not None:
            raise self._lost
        return bool(self._stop_signal) or self._stop_asked

    @property
    def preempted(self) -> bool:
        """Whether the stop came from outside (SIGTERM without `heliostat stop`)."""
        return self._stop_signal == signal.SIGTERM and not self.folder.stop_request.is_file()

    def log(self, line: str) -> None:
        """Keep a line of what the run said."""
        with self._lock:
            self._log.append([{"time": time.time(), "line": line}])

    def note(self, text: str) -> None:
        """Say something, and keep it."""
        self.console.line(text, style="yellow")

    def event(self, event: Event, when: float) -> None:
        """Record a training's event."""
        if isinstance(event, Resumed):
            self._rows = []
            self._metrics.replace(event.history)
            self._board.cut(event.step)
            for sentence in event.skipped:
                self.note(sentence)
            if event.step:
                self.console.line(f"resumed at step {event.step}")
        elif isinstance(event, Placed):
            self._placed(event)
        elif isinstance(event, Stepped):
            self._stepped(event, when)
            self.gauges.stepped(event, when)
        elif isinstance(event, Validated):
            self._row(when, event)
            best = "  best" if event.improved else ""
            place = f"{event.fold}, {event.step}" if event.fold else str(event.step)
            self.console.line(f"valid {place}  {metric_text(event.metrics)}{best}")
        elif isinstance(event, Noted):
            self.note(event.text)
        elif isinstance(event, Committed):
            self.console.line(f"committed step {event.step}")
        elif isinstance(event, (Stopped, Finished)):
            self._flush()
            self.console.rest()

    def spent(self, hours: Mapping[str, float]) -> None:
        """What the run has cost: hours of CPUs and GPUs, and money where prices are known."""
        with self._lock:
            self._state["hours"] = {key: round(value, 6) for key, value in hours.items()}

    def progress(self, done: float) -> None:
        """How much of the run is done, 0 to 1; the rest's time is guessed from it."""
        now = time.monotonic()
        if self._begun[0] == 0.0:
            self._begun = (now, done)
        gained = done - self._begun[1]
        with self._lock:
            self._state["progress"] = round(done, 4)
            if gained > 0:
                self._state["eta_seconds"] = round((now - self._begun[0]) / gained * (1 - done), 1)

    @property
    def eta_seconds(self) -> float | None:
        """How long the rest may take, by the pace so far."""
        eta: float | None = self._state["eta_seconds"]
        return eta

    def finish(self, status: str, error: str | None, next_command: str) -> None:
        """Write the last state and give the lease back."""
        self._ended.set()
        self._thread.join()
        self._flush()
        self._board.close()
        self.console.rest()
        self._state |= {"status": status, "error": error, "next": next_command, "eta_seconds": None}
        if status == "SUCCEEDED":
            self._state["progress"] = 1.0
        if self._lost is not None:
            return
        self._write_state()
        told = tell_webhook({"run": self.folder.reference} | self._state)
        if told:
            self.note(told)
        self.lease.release()

    def _placed(self, event: Placed) -> None:
        with self._lock:
            ranks = self._state.get("placement", {}) | {str(event.rank): str(event)}
            in_order = sorted((rank for rank in ranks if int(rank) < event.size), key=int)
            self._state["placement"] = {rank: ranks[rank] for rank in in_order}

    def _stepped(self, event: Stepped, when: float) -> None:
        self._row(when, event)
        done, fold = event.step / event.num_steps, event.fold
        self.progress(done if fold is None else fold.progress(done))
        eta = self._state["eta_seconds"]
        text = f"loss {number_text(event.loss)}  lr {event.learning_rate:.1e}  "
        if event.gradient_norm is not None:
            text += f"grad {number_text(event.gradient_norm)}  "
        pace, noun = event.pace
        text += f"{pace:,.0f} {noun}/s"
        if event.utilization is not None:
            text += f"  MFU {event.utilization:.1%}"
        if event.memory_bytes is not None:
            text += f"  {format_bytes(event.memory_bytes)}"
        if eta is not None:
            text += f"  eta {duration_text(eta)}"
        if fold is not None:
            text = f"{fold}  {text}"
        self.console.step(event.step, event.num_steps, text)

    def _row(self, when: float, event: Stepped | Validated) -> None:
        self._rows.append({"time": when} | event.row())
        self._board.add(self._rows[-1])
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._metrics.append(rows)
        self._flushed = time.monotonic()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self.lease.beat()
                self._write_state()
                self._stop_asked = self.folder.stop_request.is_file()
            except LeaseLostError as error:
                self._lost = error
                return
            except (OSError, ArtifactError):
                continue  # storage may come back; the lease expires for others if it does not

    def _write_state(self) -> None:
        with self._lock:
            write_json(self.folder.path / "state.json", self._state | {"heartbeat": time.time()})
