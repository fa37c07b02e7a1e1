"""Metrics for TensorBoard, beside our own: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from heliostat.storage.files import on_full_disk
from heliostat.storage.objects import StorePath

FOLDER = "tensorboard"
FLUSH_SECONDS = 10.0
NOT_METRICS = ("time", "step", "epoch", "fold")


class Board(Protocol):
    """Takes rows of metrics."""

    def add(self, row: Mapping[str, Any]) -> None:
        """One row of the metric log."""

    def cut(self, step: int) -> None:
        """Forget what came after `step`: a resumed run makes it again."""

    def close(self) -> None:
        """Write what is left."""


class NoBoard:
    """For storage that TensorBoard's files cannot be appended to."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def cut(self, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoard:
    """An event file in a folder, opened with the first row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        self._purge: int | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Board`."""
        if self._writer is None:
            self._writer = _Writer(self.folder, self._purge)
        fold = f"fold-{row['fold']}/" if "fold" in row else ""
        for name, value in row.items():
            if name not in NOT_METRICS and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add(fold + name, value, row["step"], row["time"])
        self._writer.flush_sometimes()

    def cut(self, step: int) -> None:
        """See `Board`."""
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        """See `Board`."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


class _Writer:
    """tensorboardX's writer of events without its thread and queue: once the thread has died of a
    full disk, who adds to the queue waits for ever.
    """

    def __init__(self, folder: Path, purge: int | None) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # a third of a second
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        self._path, self._flushed = folder, time.monotonic()
        suffix = f".{time.time_ns()}"  # its own names differ by the second only
        with on_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(folder / "events"), suffix)
        if purge is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=purge, file_version="brain.Event:2"))
            self._write(Event(step=purge, session_log=start))

    def add(self, name: str, value: float, step: int, when: float) -> None:
        """One value."""
        self._write(self._event(wall_time=when, step=step, summary=self._scalar(name, value)))

    def flush_sometimes(self) -> None:
        """Let others see what has been written, now and then."""
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            with on_full_disk(self._path):
                self._events.flush()

    def close(self) -> None:
        """Write what is left."""
        with on_full_disk(self._path):
            self._events.close()

    def _write(self, event: Any) -> None:
        with on_full_disk(self._path):
            self._events.write_event(event)


def open_board(run: StorePath) -> Board:
    """The board of a run folder."""
    return TensorBoard(run / FOLDER) if isinstance(run, Path) else NoBoard()
