"""A rank that does not move says where it stands."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

LOOKS = 20  # how often it looks within the time that is given
FRAMES = 8


class Watchdog:
    """Tells the stack of the thread that made it, once a stand, when `moved` was not called for
    `seconds`.
    """

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self._thread_id = threading.get_ident()
        self._moved = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def moved(self) -> None:
        """Something has come of the work."""
        self._moved = time.monotonic()

    def end(self) -> None:
        """Look no longer."""
        self._done.set()

    def _watch(self) -> None:
        told = 0.0
        while not self._done.wait(self.seconds / LOOKS):
            stands_since = self._moved
            if stands_since != told and time.monotonic() - stands_since > self.seconds:
                self.tell(stack_of(self._thread_id))
                told = stands_since


def stack_of(thread_id: int) -> str:
    """Where a thread of this process stands, innermost call last, a line each."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return "its thread has ended"
    calls = traceback.extract_stack(frame)[-FRAMES:]
    return "\n".join(f"  {call.filename}:{call.lineno} in {call.name}" for call in calls)
