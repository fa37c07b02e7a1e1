"""The processes that this one has started, and theirs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections import defaultdict
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
DAEMONS = ("gcs_server", "raylet")


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, parents before their children; none where there is no
    /proc.
    """
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        own = children[left.pop()]
        found += own
        left += own
    return found


def adopt_orphans() -> None:
    """Be the parent of what descendants leave behind, so that all of it is found: workers whose
    raylet has died, and which may be stopped.
    """
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_workers() -> None:
    """End what this process's own Ray has started, stopped processes too. Ray's daemons end with
    this process: without them, it might not come to its own end.
    """
    kill([pid for pid in descendants(os.getpid()) if _name(pid) not in DAEMONS])


def kill(pids: list[int]) -> None:
    """End processes at once, those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
