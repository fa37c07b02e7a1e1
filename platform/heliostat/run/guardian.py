"""Sees that a run ends: when it is asked to, when its time is over, when its cluster is lost.

The main thread looks for such reasons wherever it trains; but it may wait inside a library, for
something that never comes. The guardian is a thread of its own. It gives the main thread the time
that its phase deserves, and then writes the run's last state and ends the process itself.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray

from heliostat.errors import (
    ClusterLostError,
    HeliostatError,
    InterruptedRunError,
    StoppedError,
    first_line,
)
from heliostat.run.limits import Deadline
from heliostat.run.record import RunRecord
from heliostat.signals import Signals
from heliostat.train.driver import STOP_GRACE_SECONDS

LOOK_SECONDS = 0.25
LAST_WRITE_SECONDS = 20.0  # for the last state, whatever has become of the storage
LOST_SECONDS = 5.0  # between the loss of a cluster and the end of who waits for it
CLOSING_SECONDS = 60.0  # Ray's own shutdown
CLOSING = "shutdown"
CAUSE_SECONDS = 5.0  # an error of Ray's may come before what it comes from is noticed
# How long a phase may take to end by itself. In the others there is nothing to be kept.
PATIENCE_SECONDS = {"prepare": 20.0, "train": STOP_GRACE_SECONDS + 20, "tune": 80.0}


class Guardian:
    """Watches over one run. Only a process that is the run's alone is ever ended."""

    def __init__(self, record: RunRecord, signals: Signals, deadline: Deadline) -> None:
        self.record, self.signals, self.deadline = record, signals, deadline
        self.phase = "start"
        self.cluster_trouble: Callable[[], str] = lambda: ""
        self._woken, self._over = threading.Event(), False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the end of the block."""
        self.signals.tell(self._woken.set)
        thread = threading.Thread(target=self._watch, daemon=True, name="guardian")
        thread.start()
        try:
            yield
        finally:
            self._over = True
            self._woken.set()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase of the run; none begins once the run is to end."""
        self.check()
        before, self.phase = self.phase, phase
        yield
        self.phase = before

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Ray goes down: the last of all phases, begun whatever has happened."""
        self.phase = CLOSING
        yield

    def check(self) -> None:
        """Raise why the run must end now, if it must.

        Raises:
            StoppedError, InterruptedRunError: asked to stop; out of time; the cluster is lost.
        """
        error = self.reason()
        if error is not None:
            raise error

    def stop_requested(self) -> bool:
        """Whether a signal or `heliostat stop` asked for an end after a checkpoint.

        Raises:
            InterruptedRunError: the cluster is lost, or another process took the run over.
        """
        trouble = self.cluster_trouble()
        if trouble:
            raise ClusterLostError(trouble)
        return self.signals.requested or self.record.stop_requested()

    def reason(self) -> HeliostatError | None:
        """Why the run must end, or None."""
        record, signals = self.record, self.signals
        if record.lost is not None:
            return record.lost
        if record.stop_was_asked:
            return StoppedError("stopped")
        if signals.requested:
            return signals.error
        if trouble := self.cluster_trouble():
            return ClusterLostError(trouble)
        if self.deadline.at is not None and time.monotonic() > self.deadline.at:
            return InterruptedRunError(f"the time limit `{self.deadline.limit}` is over")
        return None

    def told(self, error: BaseException) -> BaseException:
        """What an error means to the user: a stop that came from outside can be resumed by whoever
        restarts us; and what follows a signal, or the loss of the cluster, is no failure of its
        own.
        """
        if isinstance(error, StoppedError):
            if not self.signals.requested or self.record.stop_was_asked:
                return error
            why = self.signals.error
            return error if isinstance(why, StoppedError) else type(why)(f"{why}: {error}")
        if isinstance(error, HeliostatError):
            return error
        text = first_line(f"{type(error).__name__}: {error}")
        if self.signals.requested:
            why = self.signals.error
            return type(why)(f"{why}; it ended with {text}")
        deadline = time.monotonic() + (CAUSE_SECONDS if _is_of_ray(error) else 0)
        while not (trouble := self.cluster_trouble()) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        if trouble:
            return ClusterLostError(trouble)
        return ClusterLostError(f"Ray failed: {text}") if _is_of_ray(error) else error

    def leave_lost_cluster(self, error: BaseException) -> None:
        """With nothing there to be shut down, Ray would wait for it, or end the process its way."""
        lost = self.cluster_trouble()
        if lost and self.signals.end is not None and isinstance(error, HeliostatError):
            self.signals.end(error)

    def _watch(self) -> None:
        if self.signals.end is None:
            return
        since = closing_since = 0.0
        while not self._over:
            self._woken.wait(LOOK_SECONDS)
            self._woken.clear()
            now = time.monotonic()
            is_closing = self.phase == CLOSING or self.record.is_over
            closing_since = (closing_since or now) if is_closing else 0.0
            if is_closing and now - closing_since > CLOSING_SECONDS:
                self._end(InterruptedRunError(f"Ray did not go down in {CLOSING_SECONDS:g} s"))
            error = None if self.record.is_over else self.reason()
            if error and not since and self._patience() > 0:
                # Beside this thread, which must not wait for a terminal or a storage.
                threading.Thread(target=self._acknowledge, args=(error,), daemon=True).start()
            since = (since or now) if error else 0.0
            if error and now - since >= self._patience():
                self._end(error)

    def _acknowledge(self, error: HeliostatError) -> None:
        again = "; Ctrl-C again ends it at once" if self.signals.number == signal.SIGINT else ""
        with suppress(HeliostatError, OSError):
            self.record.note(f"{error}: the run ends as soon as what is done is kept{again}")

    def _patience(self) -> float:
        if self.signals.is_urgent:
            return 0.0
        patience = PATIENCE_SECONDS.get(self.phase, 0.0)
        return min(patience, LOST_SECONDS) if self.cluster_trouble() else patience

    def _end(self, error: HeliostatError) -> None:
        """The main thread has not come to its end: do in its place what must be done."""
        assert self.signals.end is not None
        told = type(error)(f"{error} (at `{self.phase}`)")
        last = (told, self.signals.requested)
        writing = threading.Thread(target=self.record.end, args=last, daemon=True)
        writing.start()
        writing.join(LAST_WRITE_SECONDS)
        self.signals.end(self.record.outcome or told)


def _is_of_ray(error: BaseException) -> bool:
    """Whether Ray itself failed, and not what it ran."""
    is_task = isinstance(error, ray.exceptions.RayTaskError)
    return isinstance(error, ray.exceptions.RayError) and not is_task
