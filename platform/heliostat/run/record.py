"""The written record of a run: state, heartbeat, metrics, log lines.

One background thread keeps the lease and `state.json` fresh, and notices a request to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from heliostat.errors import FAILED, ArtifactError, HeliostatError, LeaseLostError, StorageError
from heliostat.plan.memory import format_bytes
from heliostat.report.console import Console, duration_text, metric_text, number_text
from heliostat.report.follow import resume_command
from heliostat.report.tensorboard import open_board
from heliostat.run.gauges import Gauges, NoGauges
from heliostat.run.webhook import tell_webhook
from heliostat.spec.job import JobSpec
from heliostat.storage.files import read_json, write_json
from heliostat.storage.lease import HEARTBEAT_SECONDS, Lease
from heliostat.storage.reserve import Reserve
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
    StoppedEarly,
    Validated,
)

FLUSH_SECONDS = 1.0
HEARTBEAT_END_SECONDS = 10.0
STATUSES = {3: "STOPPED", 5: "INTERRUPTED"}  # by an error's exit status; all else has FAILED


class RunRecord:
    """Writes a run's folder while it holds the lease."""

    def __init__(self, folder: RunFolder, lease: Lease, console: Console, spec: JobSpec) -> None:
        self.folder, self.lease, self.console = folder, lease, console
        self._metrics = Segments(folder.metrics)
        self._board = open_board(folder.path)
        self._log = Segments(folder.logs)
        self._objective = spec.objective_metric
        self._attempt_began = time.time()
        self._before = _state_before(folder)
        self._state: dict[str, Any] = self._before | {
            "status": "RUNNING",
            "started": self._before.get("started", self._attempt_began),
            "attempt": lease.token,
            "labels": dict(spec.labels),
            "progress": self._before.get("progress", 0.0),
            "eta_seconds": None,
            "error": None,
            "next": f"heliostat logs -f {folder.arguments}",
        }
        self.gauges: Gauges = NoGauges()
        self._lock = threading.Lock()
        self.lost: LeaseLostError | None = None
        self.stop_was_asked = False  # by `heliostat stop`; looked for beside each heartbeat
        self.is_over = False
        self.outcome: HeliostatError | None = None
        self._ending = threading.Lock()
        self._ended = threading.Event()
        self._has_moved = False
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        self._begun = (0.0, 0.0)  # (time, progress) when training started moving
        console.log = self.log
        self._reserve = Reserve(folder.path)
        self._write_state()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def stop_requested(self) -> bool:
        """Whether `heliostat stop` asked for a stop.

        Raises:
            LeaseLostError: another process took the run over.
        """
        if self.lost is not None:
            raise self.lost
        return self.stop_was_asked

    def log(self, line: str) -> None:
        """Keep a line of what the run said."""
        with self._lock:
            self._log.append([{"time": time.time(), "line": line}])

    def note(self, text: str) -> None:
        """Say something, and keep it."""
        self.console.line(text, style="yellow")

    def event(self, event: Event, when: float) -> None:
        """Record a training's event."""
        self._has_moved = self._has_moved or not isinstance(event, (Placed, Noted))
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
            if event.improved and event.fold is None:
                self.scored("validation", self._objective, event.score)
            best = "  best" if event.improved else ""
            place = f"{event.fold}, {event.step}" if event.fold else str(event.step)
            self.console.line(f"valid {place}  {metric_text(event.metrics)}{best}")
        elif isinstance(event, Noted):
            self.note(event.text)
        elif isinstance(event, StoppedEarly):
            self.note(str(event))
        elif isinstance(event, Committed):
            self.console.line(f"committed step {event.step}")
        elif isinstance(event, (Stopped, Finished)):
            self._flush()
            self.console.rest()

    def scored(self, split: str, metric: str, value: float | None) -> None:
        """The best value of the objective so far."""
        with self._lock:
            self._state["score"] = {"split": split, "metric": metric, "value": value}

    def spent(self, hours: Mapping[str, float]) -> None:
        """What the run has cost: hours of CPUs and GPUs, and money where prices are known."""
        with self._lock:
            self._state["hours"] = {key: round(value, 6) for key, value in hours.items()}

    def progress(self, done: float) -> None:
        """How much of the run is done, 0 to 1; the rest's time is guessed from it."""
        now, self._has_moved = time.monotonic(), True
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

    def end(self, error: BaseException | None, by_signal: bool = False) -> None:
        """Write the last state and give the lease back, once: who comes second waits for the first.
        Without an error the run has succeeded.
        """
        with self._ending:
            if self.is_over:
                return
            self._ended.set()
            self._thread.join(HEARTBEAT_END_SECONDS)
            self._reserve.release()  # what is said last has room
            self._tried(self._flush)
            self._tried(self._board.close)
            self.console.rest()
            self._state |= {"eta_seconds": None} | self._last(error, by_signal)
            if self.lost is None:
                self._tried(self._write_state)
            if isinstance(error, HeliostatError):
                error.go_on = self._state["next"]
                self.outcome = error
            self.is_over = True
        if self.lost is None:
            told = tell_webhook({"run": self.folder.reference} | self._state)
            if told:
                self._tried(lambda: self.note(told))
            self._tried(self.lease.release)

    def _tried(self, write: Callable[[], None]) -> None:
        """Write what can be written of the last; it takes no other's place if it cannot."""
        try:
            write()
        except (StorageError, OSError) as error:
            self.console.log = None
            self.console.line(str(error), style="red")

    def _last(self, error: BaseException | None, by_signal: bool) -> dict[str, Any]:
        """How it ended. A resume that failed before anything moved leaves what was known."""
        where = self.folder.arguments
        if error is None:
            told = {"status": "SUCCEEDED", "error": None, "next": f"heliostat report {where}"}
            return told | {"progress": 1.0}
        exit_status = error.exit_status if isinstance(error, HeliostatError) else FAILED
        text = str(error) if isinstance(error, HeliostatError) else _text_of(error)
        status = STATUSES.get(exit_status, "FAILED")
        before = self._before.get("status")
        if before == "STOPPED" and not self._has_moved and not by_signal:
            status = before
            text = f"{self._before.get('error') or 'stopped'}; resuming it failed: {text}"
        again = resume_command(self.folder) if exit_status in STATUSES else ""
        return {"status": status, "error": text, "next": again}

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
        parts = [f"loss {number_text(event.loss)}", f"lr {event.learning_rate:.1e}"]
        if event.gradient_norm is not None:
            parts.append(f"grad {number_text(event.gradient_norm)}")
        pace, noun = event.pace
        parts.append(f"{pace:,.0f} {noun}/s")
        if event.utilization is not None:
            parts.append(f"MFU {event.utilization:.1%}")
        if event.memory_bytes is not None:
            parts.append(format_bytes(event.memory_bytes))
        if fold is not None:
            parts.insert(0, str(fold))
        left = "" if eta is None else f"eta {duration_text(eta)}"
        self.console.step(event.step, event.num_steps, parts, left)

    def _row(self, when: float, event: Stepped | Validated) -> None:
        self._rows.append({"time": when} | event.row())
        self._board.add(self._rows[-1])
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._metrics.append(self._rows)
        self._rows = []
        self._flushed = time.monotonic()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self.lease.beat()
                self._write_state()
                self.stop_was_asked = self.folder.stop_request.is_file()
            except LeaseLostError as error:
                self.lost = error
                return
            except (OSError, ArtifactError, StorageError):
                continue  # storage may come back; the lease expires for others if it does not

    def _write_state(self) -> None:
        now = time.time()
        seconds = self._before.get("seconds", 0.0) + now - self._attempt_began
        moving = {"seconds": round(seconds, 1), "heartbeat": now}
        with self._lock:
            write_json(self.folder.path / "state.json", self._state | moving)


def _state_before(folder: RunFolder) -> dict[str, Any]:
    """What is known of a run that goes on; of a new one, nothing."""
    try:
        return read_json(folder.path / "state.json")
    except (ArtifactError, StorageError):
        return {}


def _text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
