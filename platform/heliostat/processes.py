"""The processes that this one has started, and theirs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path


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


def kill_workers() -> None:
    """End what this process's own Ray has started, stopped processes too. Ray's daemons, its
    children, end with it: without them it might not come to its own end.
    """
    parent = os.getpid()
    own = {child for child in descendants(parent) if _parent(child) == parent}
    kill([pid for pid in descendants(parent) if pid not in own])


def kill(pids: list[int]) -> None:
    """End processes at once, those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
