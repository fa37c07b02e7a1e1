"""Lines between Ray Train's workers and the driver: sockets to one mailbox in the driver.

An actor as mailbox would cost a process, which imports everything that messages name: 2.7
CPU-seconds on the way to the first step. Both ends prove that they know a key of this group's
own before anything is unpickled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from secrets import token_bytes
from typing import Any

import ray
from ray import cloudpickle

from heliostat.train.channel import Mailbox


class Exchange:
    """The driver's end: answers every line's calls to `mailbox`, a thread a line."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._key = token_bytes(32)
        self._listener = Listener((ray.util.get_node_ip_address(), 0), backlog=64)
        self._lines: list[Connection] = []
        self._heard: dict[Connection, tuple[int, str, float]] = {}  # rank, place, when
        threading.Thread(target=self._accept, daemon=True, name="exchange").start()

    @property
    def address(self) -> tuple[Any, bytes]:
        """What `Line` needs."""
        return self._listener.address, self._key

    @property
    def has_workers(self) -> bool:
        """Whether a worker is on the line."""
        return bool(self._heard)

    def silent(self, seconds: float) -> list[tuple[int, str, float]]:
        """The workers on the line that have not been heard for so long: rank, place, and for how
        long. They call several times a second.
        """
        now = time.monotonic()
        waits = [(rank, place, now - when) for rank, place, when in list(self._heard.values())]
        return [wait for wait in waits if wait[2] > seconds]

    def close(self) -> None:
        """Hang up."""
        self._listener.close()
        for line in self._lines:
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                line = self._listener.accept()
            except OSError:
                return  # closed
            self._lines.append(line)
            threading.Thread(target=self._answer, args=(line,), daemon=True, name="line").start()

    def _answer(self, line: Connection) -> None:
        try:
            deliver_challenge(line, self._key)
            answer_challenge(line, self._key)
            while True:
                name, *arguments = line.recv()
                self._hear(line, name, arguments)
                line.send(getattr(self._mailbox, name)(*arguments))
        except (OSError, EOFError, TypeError, AuthenticationError):
            line.close()  # the worker is gone, it was none of ours, or `close` has hung up
        finally:
            self._heard.pop(line, None)

    def _hear(self, line: Connection, name: str, arguments: list[Any]) -> None:
        if name == "register":
            self._heard[line] = (*arguments[1:], 0.0)
        if line in self._heard:
            self._heard[line] = (*self._heard[line][:2], time.monotonic())


class Line:
    """A worker's end; a `Channel`. Safe between threads.

    Raises:
        OSError, EOFError: the driver cannot be reached any more.
    """

    def __init__(self, address: tuple[Any, bytes]) -> None:
        where, key = address
        self._connection = Client(where, authkey=key)
        self._lock = threading.Lock()

    def send(self, messages: Sequence[Any]) -> bool:
        """See `Channel`."""
        return bool(self._call("send", list(messages)))

    def register(self, rank: int, place: str) -> None:
        """Let the driver end this worker, and know it by name."""
        actor = ray.get_runtime_context().current_actor
        self._call("register", cloudpickle.dumps(actor), rank, place)

    def work(self) -> Any:
        """The work on offer, if any."""
        offer = self._call("get_work")
        return offer and cloudpickle.loads(offer)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            self._connection.send((name, *arguments))
            return self._connection.recv()
