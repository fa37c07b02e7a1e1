"""Signals that ask this process to end, heard at once whatever it is doing.

Python runs a handler only between two instructions of its main thread, which a call into a
library may keep for minutes; and Ray puts handlers of its own in place of those it finds. So one
place installs ours, puts them back after Ray, and lets each signal also wake a thread.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from heliostat.errors import HeliostatError, InterruptedRunError, StoppedError

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_SECONDS = 1.0  # a terminal and a wrapper may both send the same Ctrl-C
End = Callable[[HeliostatError], NoReturn]


class Signals:
    """What this process was asked by signals. `end` ends the process with an error's sentence and
    exit status; without it the process is not ours to end (a notebook's).
    """

    def __init__(self, end: End | None = None) -> None:
        self.end = end
        self.number = 0  # of the first one; 0: none
        self.is_urgent = False  # Ctrl-C was pressed again
        self._heard_at = 0.0
        self._listener: Callable[[], None] = self._end_now
        self._lock = threading.Lock()

    @property
    def requested(self) -> bool:
        """Whether a signal asked for an end."""
        return self.number != 0

    @property
    def error(self) -> HeliostatError:
        """What the first signal means: Ctrl-C stops; what comes from outside interrupts."""
        if self.number == signal.SIGINT:
            return StoppedError("stopped by Ctrl-C")
        return InterruptedRunError(f"terminated by {signal.Signals(self.number).name}")

    def tell(self, listener: Callable[[], None]) -> None:
        """Call `listener` from a thread after each signal from now on, and now if there was one;
        until then the first signal ends the process.
        """
        with self._lock:
            self._listener = listener
            if self.requested:
                listener()

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Catch them; outside the main thread, where nobody can, do nothing. What was ignored from
        the start (by nohup, or a shell's `&`) stays ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        ours = [n for n in CAUGHT if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in ours}
        hearing, waking = socket.socketpair()
        waking.setblocking(False)
        fd_before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(hearing,), daemon=True, name="signals")
        thread.start()
        try:
            yield self
        finally:
            if self.end is None:  # else the process is about to end, and must not die of one now
                signal.set_wakeup_fd(fd_before)
                for number, handler in before.items():
                    signal.signal(number, handler)
                waking.close()  # ends the thread

    def _listen(self, hearing: socket.socket) -> None:
        with hearing:
            while heard := hearing.recv(1):
                if heard[0] in CAUGHT:
                    self._hear(heard[0])

    def _hear(self, number: int) -> None:
        with self._lock:
            if not self.number:
                self.number, self._heard_at = number, time.monotonic()
            elif number == signal.SIGINT and time.monotonic() - self._heard_at > AGAIN_SECONDS:
                self.is_urgent = True
            self._listener()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, which may come late or never: the thread has heard it."""
        again = self.requested and time.monotonic() - self._heard_at > AGAIN_SECONDS
        if self.end is None and again and number == signal.SIGINT:
            raise KeyboardInterrupt

    def _end_now(self) -> None:
        if self.end is not None:
            self.end(self.error)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep the handlers that are there, also from a library that puts its own in their place: it
    cannot from Python, and what its C code has done is undone at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in CAUGHT}
    install = signal.signal

    def install_others(number: int, handler: Any) -> Any:
        return before[number] if number in before else install(number, handler)

    signal.signal = install_others  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = install
        for number, handler in before.items():
            if handler is not None:
                install(number, handler)
