"""Messages between a worker and the driver: a mailbox, and the seat that a worker sits in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

SEND_SECONDS = 0.2
CLOSE_SECONDS = 300.0  # the driver may be suspended for a while
ENDED = "ended"


class Channel(Protocol):
    """A worker's line to the driver."""

    def send(self, messages: Sequence[Any]) -> bool:
        """Deliver messages in order; whether the driver wants the work to stop."""


class Mailbox:
    """Messages in order, the work on offer, and the wish to stop.

    Safe between threads. In the worker itself for plain actors, in the driver for Ray Train,
    whose workers also register there so that the driver can end them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[Any] = []
        self._stop = False
        self._work: Any = None
        self._workers: list[Any] = []

    def send(self, messages: Sequence[Any]) -> bool:
        """See `Channel`."""
        with self._lock:
            self._messages.extend(messages)
            return self._stop

    def take(self) -> list[Any]:
        """All messages that nobody has taken yet."""
        with self._lock:
            messages, self._messages = self._messages, []
            return messages

    def ask_stop(self) -> None:
        """Want the work to stop."""
        self._stop = True

    def put_work(self, work: Any) -> None:
        """Offer the work that workers wait for."""
        self._work = work

    def get_work(self) -> Any:
        """The work on offer, if any."""
        return self._work

    def register(self, worker: Any, rank: int, place: str) -> None:
        """Remember a worker."""
        self._workers.append(worker)

    def end(self, offer: Any) -> list[Any]:
        """Replace the work by the offer of none; the workers to end."""
        self._work = offer
        return self._workers


@dataclass(frozen=True)
class Seat:
    """A worker's place: its rank among `size`, the address where ranks meet, its channel, and
    whether a place of the group is about to be taken away.
    """

    rank: int
    size: int
    address: str
    channel: Channel
    reclaimed: Callable[[], bool] = lambda: False


Work = Callable[[Any, Seat], None]


class Sender:
    """Sends a worker's messages a few times a second from a thread, so that training never
    waits for the driver; `stop_requested` is the driver's last answer.

    Raises:
        OSError, EOFError: `stop_requested` or `close`, when the driver cannot be reached.
    """

    def __init__(self, channel: Channel, rank: int) -> None:
        self._channel, self._rank = channel, rank
        self._pending: list[Any] = []
        self._lock = threading.Lock()
        self._stop = self._lost = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._pump, daemon=True, name="sender")
        self._thread.start()

    def put(self, message: Any) -> None:
        """Queue a message."""
        with self._lock:
            self._pending.append(message)

    def stop_requested(self) -> bool:
        """Whether the driver wants the work to stop."""
        if self._lost:
            raise ConnectionError("the line to the driver is lost")
        return self._stop

    def close(self) -> None:
        """Send what is left, and end."""
        self._done.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            raise ConnectionError("the driver does not take what is sent")
        self._flush()

    def _pump(self) -> None:
        try:
            while not self._done.wait(SEND_SECONDS):
                self._flush()
        except (OSError, EOFError):
            self._lost = True

    def _flush(self) -> None:
        with self._lock:
            messages, self._pending = self._pending, []
        self._stop = (
            self._channel.send([(self._rank, m, time.time()) for m in messages]) or self._stop
        )
