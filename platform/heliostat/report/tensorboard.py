"""Metrics for TensorBoard, beside our own: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from heliostat.storage.objects import StorePath

FOLDER = "tensorboard"
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
            from tensorboardX import SummaryWriter  # a third of a second

            suffix = f".{time.time_ns()}"  # its own names differ by the second only
            self._writer = SummaryWriter(
                str(self.folder), purge_step=self._purge, filename_suffix=suffix
            )
        fold = f"fold-{row['fold']}/" if "fold" in row else ""
        for name, value in row.items():
            if name not in NOT_METRICS and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(fold + name, value, row["step"], row["time"])

    def cut(self, step: int) -> None:
        """See `Board`."""
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        """See `Board`."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def open_board(run: StorePath) -> Board:
    """The board of a run folder."""
    return TensorBoard(run / FOLDER) if isinstance(run, Path) else NoBoard()
