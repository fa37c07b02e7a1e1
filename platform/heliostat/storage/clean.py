"""What a storage no longer needs: leftovers of killed writers, old prepared copies, old
checkpoints. Nothing outside a folder that carries our marker is ever looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from heliostat.errors import ArtifactError
from heliostat.storage.files import STAGE_PREFIX, read_json
from heliostat.storage.folders import remove_folder
from heliostat.storage.lease import read_holder
from heliostat.storage.objects import ObjectPath, StorePath, matching
from heliostat.storage.runs import RUNNING_STATES, RunFolder, Storage

MANIFEST = "manifest.json"  # of a prepared copy: there once it is whole
TRIALS = "trials"  # of a name: its ledger, and what its sweeps leave
DIGEST_PATTERN = re.compile(r"[0-9a-f]{32,64}\Z")  # the name of a prepared copy
LEASES = ".leases"  # in `prepared`: who prepares which copy
LEFTOVER_SECONDS = 3600.0  # a stage that nobody has touched for so long has no writer any more


@dataclass(frozen=True)
class Stale:
    """Something to remove, why, and how much it takes."""

    path: StorePath
    reason: str
    num_bytes: int


def find_stale(storage: Storage, older_than_seconds: float) -> list[Stale]:
    """What can go, oldest rules first; what a living run or preparation uses never can."""
    now = time.time()
    found = [*_leftovers(storage, now), *_copies(storage, now - older_than_seconds)]
    for folder in matching(storage.root / "runs", f"*/{TRIALS}/checkpoints/*"):
        if _touched(folder) < now - older_than_seconds:
            found.append(_stale(folder, "checkpoints of a trial that was not gone on with"))
    for run in storage.runs():
        state, folder = _status(run), run.checkpoints
        ended = state in ("SUCCEEDED", "FAILED") and folder.exists()
        if ended and _touched(folder) < now - older_than_seconds:
            found.append(_stale(folder, f"checkpoints of a run that {state.lower()}"))
    return found


def remove(stale: Stale) -> None:
    """Remove one thing, for good."""
    if stale.path.is_dir():
        remove_folder(stale.path, MANIFEST)
    else:
        stale.path.unlink(missing_ok=True)


def _leftovers(storage: Storage, now: float) -> Iterator[Stale]:
    for path in _unfinished(storage):
        digest = path.name.removeprefix(STAGE_PREFIX)
        holder = read_holder(storage.prepared / LEASES / digest)
        if holder is not None and holder.alive:
            continue
        if path.exists() and _touched(path) < now - LEFTOVER_SECONDS:
            yield _stale(path, "left by a writer that was killed")


def _unfinished(storage: Storage) -> list[StorePath]:
    """What looks like a stage; in an object store, a copy without its manifest."""
    if isinstance(storage.root, Path):
        return sorted(storage.root.rglob(f"{STAGE_PREFIX}*"))
    copies = [path for path in storage.prepared.iterdir() if not path.name.startswith(".")]
    return [path for path in copies if not (path / MANIFEST).exists()]


def _copies(storage: Storage, before: float) -> Iterator[Stale]:
    unsure = (*RUNNING_STATES, "UNKNOWN")
    used = {_prepared_of(run) for run in storage.runs() if _status(run) in unsure}
    for manifest in matching(storage.prepared, f"*/{MANIFEST}"):
        copy = manifest.parent
        if (
            DIGEST_PATTERN.match(copy.name)
            and copy.name not in used
            and manifest.stat().st_mtime < before
        ):
            yield _stale(copy, "a prepared copy that no run has opened since")


def _status(run: RunFolder) -> str:
    return str(run.read_state()["status"])


def _prepared_of(run: RunFolder) -> str | None:
    try:
        return str(read_json(run.path / "plan.json").get("prepared_digest"))
    except ArtifactError:
        return None


def _touched(path: StorePath) -> float:
    """When it, or what is right in it, was last written."""
    if isinstance(path, ObjectPath):
        return max((entry.stat().st_mtime for entry in path.objects()), default=0.0)
    inside = path.iterdir() if path.is_dir() else ()
    return max(entry.lstat().st_mtime for entry in (path, *inside))


def _stale(path: StorePath, reason: str) -> Stale:
    if isinstance(path, ObjectPath):
        return Stale(path, reason, sum(size for _, size, _ in path.listing()))
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Stale(path, reason, sum(file.stat().st_size for file in files))
