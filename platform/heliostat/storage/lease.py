"""One writer a run: a lease with a heartbeat and a fencing token.

The lease is a folder of numbered claims. A claim is taken by creating the next number, which
only one process can do; the highest number holds the run, and its number is the fencing token.
A holder is alive while its heartbeat is young, or, on its own machine, while its process is.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from heliostat.errors import ArtifactError, LeaseLostError, StorageError
from heliostat.storage.files import FORMAT, create_bytes, encode_json, read_as, write_json
from heliostat.storage.objects import StorePath, matching

HEARTBEAT_SECONDS = 2.0
EXPIRY_SECONDS = 30.0
MEND_SECONDS, LOOK_SECONDS = 3 * HEARTBEAT_SECONDS, 0.2
CLAIM_PATTERN = re.compile(r"\d{5,9}\.json\Z")


@dataclass(frozen=True)
class _Claim:
    """What a claim says. `machine` tells two hosts of one name apart; older claims lack it."""

    host: str
    pid: int
    started: float
    heartbeat: float
    released: bool
    machine: str = ""


@dataclass(frozen=True)
class Holder:
    """Who holds a run; `written` is when the storage got its claim, which is None if it cannot be
    read.
    """

    token: int
    written: float
    claim: _Claim | None

    @property
    def pid(self) -> int | None:
        """Its process, on its own machine."""
        return self.claim.pid if self.claim is not None else None

    @property
    def alive(self) -> bool:
        """Whether the holder still works on the run, as far as can be told from here."""
        now, claim = time.time(), self.claim
        if claim is None:  # its next heartbeat would have mended it
            return now - self.written < MEND_SECONDS
        if claim.released:
            return False
        if claim.host == socket.gethostname() and claim.machine in ("", this_machine()):
            if process_start(claim.pid) == claim.started:
                return True
            if claim.machine:
                return False
        # Of a clock that is far ahead of ours only the storage can say when it spoke.
        is_ahead = claim.heartbeat > now + EXPIRY_SECONDS
        return now - (self.written if is_ahead else claim.heartbeat) < EXPIRY_SECONDS


def read_holder(folder: StorePath) -> Holder | None:
    """The present holder of the lease in `folder`, alive or not."""
    claims = [path for path in matching(folder, "*.json") if CLAIM_PATTERN.match(path.name)]
    if not claims:
        return None
    newest = max(claims, key=lambda path: int(path.stem))
    try:
        claim = read_as(newest, _Claim)
    except ArtifactError:
        claim = None
    try:
        written = newest.stat().st_mtime
    except FileNotFoundError:
        written = 0.0
    return Holder(int(newest.stem), written, claim)


@cache
def this_machine() -> str:
    """What tells this machine, or container, from another one of the same name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


class Lease:
    """Holds the run whose lease lies in `folder`; `token` fences older writers off."""

    def __init__(self, folder: StorePath, token: int) -> None:
        self.folder, self.token = folder, token

    @classmethod
    def acquire(cls, folder: StorePath) -> Lease | None:
        """Take the lease; None if a living holder has it."""
        holder = read_holder(folder)
        while holder is not None and holder.alive:
            if holder.claim is not None:
                return None
            time.sleep(LOOK_SECONDS)
            holder = read_holder(folder)
        token = (holder.token if holder else 0) + 1
        claimed = create_bytes(_claim_path(folder, token), encode_json(_claim()))
        return cls(folder, token) if claimed else None

    def beat(self) -> None:
        """Renew the heartbeat.

        Raises:
            LeaseLostError: another process has taken the run over.
        """
        check_token(self.folder, self.token)
        write_json(_claim_path(self.folder, self.token), _claim())

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Hold the lease with a heartbeat of its own; release it at the end."""
        done = threading.Event()

        def pump() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                try:
                    self.beat()
                except LeaseLostError:
                    return
                except StorageError:
                    continue  # it may come back before the lease expires

        thread = threading.Thread(target=pump, daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(StorageError):  # the lease then ends with this process
                self.release()

    def release(self) -> None:
        """Give the run back, so that the next process need not wait for the expiry."""
        write_json(_claim_path(self.folder, self.token), _claim() | {"released": True})


def check_token(folder: StorePath, token: int) -> None:
    """Raise LeaseLostError unless `token` is the newest claim: called before each commit."""
    if _claim_path(folder, token + 1).is_file():
        raise LeaseLostError(
            f"{folder.parent}: another process has taken this run over; "
            "nothing more is written here"
        )


def process_start(pid: int) -> float | None:
    """When process `pid` of this machine started, in clock ticks since boot; None if gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return _signal_start(pid)
    return None if fields[0] == "Z" else float(fields[19])


def _signal_start(pid: int) -> float | None:
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return 0.0


def _claim_path(folder: StorePath, token: int) -> StorePath:
    return folder / f"{token:05d}.json"


def _claim() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "format": FORMAT,
        "host": socket.gethostname(),
        "pid": pid,
        "started": process_start(pid) or 0.0,
        "heartbeat": time.time(),
        "released": False,
        "machine": this_machine(),
    }
