"""What the outside wants of a running training: a stop, or a checkpoint now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Control(Protocol):
    """Asked at every logged step, on every rank; one rank's yes is enough."""

    def stop_requested(self) -> bool:
        """Whether to commit a checkpoint and end."""

    def checkpoint_due(self) -> bool:
        """Whether enough time has passed since the last checkpoint."""

    def checkpoint_done(self) -> None:
        """A checkpoint has just been committed."""


class NoControl:
    """Nobody asks for anything: trials and tests."""

    def stop_requested(self) -> bool:
        """Never."""
        return False

    def checkpoint_due(self) -> bool:
        """Never."""
        return False

    def checkpoint_done(self) -> None:
        """Nothing to remember."""


class ClockControl:
    """Checkpoints by the clock, and one just in time when `reclaimed()` begins to say that a place
    is taken away; a stop when `wants_stop()` says so.
    """

    def __init__(
        self,
        every_minutes: float,
        wants_stop: Callable[[], bool],
        reclaimed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._every_seconds, self._wants_stop = every_minutes * 60, wants_stop
        self._reclaimed, self._was_reclaimed = reclaimed, False
        self._last = time.monotonic()

    def stop_requested(self) -> bool:
        """Whether the channel carries a stop."""
        return self._wants_stop()

    def checkpoint_due(self) -> bool:
        """Whether the interval is over, or a place is about to be taken away."""
        notice = not self._was_reclaimed and self._reclaimed()
        self._was_reclaimed = self._was_reclaimed or notice
        return notice or time.monotonic() - self._last >= self._every_seconds

    def checkpoint_done(self) -> None:
        """Restart the interval."""
        self._last = time.monotonic()
