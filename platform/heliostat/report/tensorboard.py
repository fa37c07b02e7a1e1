"""Metrics for TensorBoard, beside our own: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from heliostat.report.event_file import EventFile
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
    """An event file that says so where the disk is full, and is flushed now and then."""

    def __init__(self, folder: Path, purge: int | None) -> None:
        self._path, self._flushed = folder, time.monotonic()
        with on_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._events = EventFile(folder)
            if purge is not None:
                self._events.purge(purge)

    def add(self, name: str, value: float, step: int, when: float) -> None:
        """One value."""
        with on_full_disk(self._path):
            self._events.scalar(name, value, step, when)

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


def open_board(run: StorePath) -> Board:
    """The board of a run folder."""
    return TensorBoard(run / FOLDER) if isinstance(run, Path) else NoBoard()
