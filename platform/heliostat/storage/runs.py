"""The folders of a storage: runs by name and id, ledgers, prepared data."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.errors import ArtifactError, Problem, StorageError, UserError
from heliostat.storage.files import read_json, write_json
from heliostat.storage.lease import read_holder
from heliostat.storage.objects import ObjectPath, StorePath, as_path
from heliostat.storage.promoted import aliases, read_promoted

ID_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")
MARKER = "heliostat.json"
DEFAULT_STORAGE = "runs"  # in the current folder
IDENTITY = "identity.json"  # what a run began as; the first file of its folder
RUNNING_STATES = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Storage:
    """A folder that carries our marker and holds `runs/` and `prepared/`: on a file system, or
    in an object store.
    """

    root: StorePath

    @classmethod
    def open(cls, location: str) -> Storage:
        """Open (or mark a new) storage at `location`.

        Raises:
            UserError: the folder cannot be made or written.
        """
        root = as_path(location)
        if isinstance(root, Path):
            root = root.expanduser().absolute()  # workers have other current folders
        try:
            if isinstance(root, ObjectPath):
                root.reach()
            root.mkdir(parents=True, exist_ok=True)
            if not (root / MARKER).exists():
                write_json(root / MARKER, {"what": "heliostat storage"})
        except StorageError as error:
            raise UserError(Problem("storage", str(error))) from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise UserError(
                Problem("storage", f"`{location}` cannot be written: {reason}")
            ) from None
        return cls(root)

    @property
    def prepared(self) -> StorePath:
        """Where prepared copies of data sets live."""
        return self.root / "prepared"

    def ledger(self, name: str) -> StorePath:
        """The folder of a name's sweep ledger."""
        return self.root / "runs" / name / "trials"

    def run(self, name: str, run_id: str) -> RunFolder:
        """The folder of one run, existing or not."""
        if not ID_PATTERN.fullmatch(run_id) or run_id == "trials":
            raise UserError(
                Problem("--id", f"`{run_id}` must be up to 63 letters, digits, '.', '_' or '-'")
            )
        return RunFolder(self.root / "runs" / name / run_id)

    def runs(self, name: str | None = None) -> Iterator[RunFolder]:
        """Every run, oldest first."""
        folders = (self.root / "runs").glob(f"{name or '*'}/*/state.json")
        runs = [path.parent for path in folders if (path.parent / IDENTITY).exists()]
        for folder in sorted(runs, key=lambda folder: (folder / IDENTITY).stat().st_mtime):
            yield RunFolder(folder)

    def find(self, reference: str) -> RunFolder:
        """The run called NAME (its latest), NAME/ID or MODEL@ALIAS, or the folder of one.

        Raises:
            UserError: there is none.
        """
        if "@" in reference and "/" not in reference:
            return self._promoted(reference)
        name, _, run_id = reference.partition("/")
        named = self.root / "runs" / name / run_id
        if ID_PATTERN.fullmatch(run_id) and (named / "state.json").exists():
            return RunFolder(named)
        if not run_id and (runs := list(self.runs(name))):
            return runs[-1]
        folder = as_path(reference)
        if (folder / "state.json").exists():
            return RunFolder(folder.resolve() if isinstance(folder, Path) else folder)
        known = sorted({folder.name for folder in self.runs()})
        hint = f"known names: {', '.join(known)}" if known else "there is no run yet"
        raise UserError(Problem(str(self.root), f"no run `{reference}` here", hint))

    def _promoted(self, name: str) -> RunFolder:
        value = read_promoted(self.root, name)
        if value is None:
            known = ", ".join(aliases(self.root))
            hint = f"known: {known}" if known else "`heliostat promote RUN MODEL@ALIAS` names one"
            raise UserError(Problem(str(self.root), f"no model `{name}` here", hint))
        return self.find(value["run"])


@dataclass(frozen=True)
class RunFolder:
    """One run's files. See the contract for what each one holds."""

    path: StorePath

    @property
    def name(self) -> str:
        """The job's name."""
        return self.path.parent.name

    @property
    def run_id(self) -> str:
        """The run's id under its name."""
        return self.path.name

    @property
    def reference(self) -> str:
        """NAME/ID, as the command takes it."""
        return f"{self.name}/{self.run_id}"

    @property
    def model(self) -> StorePath:
        """The finished model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> StorePath:
        """Committed checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> StorePath:
        """Metric rows, in segments."""
        return self.path / "metrics"

    @property
    def logs(self) -> StorePath:
        """What the run printed, in segments."""
        return self.path / "logs"

    @property
    def lease(self) -> StorePath:
        """Who may write here."""
        return self.path / "lease"

    @property
    def stop_request(self) -> StorePath:
        """Present once somebody asked the run to stop."""
        return self.path / "stop.json"

    def read_state(self) -> dict[str, Any]:
        """`state.json`, told as it is: a run nobody drives any more is INTERRUPTED, and one
        without a whole `result.json` is never SUCCEEDED.
        """
        state = read_json(self.path / "state.json")
        if state["status"] in RUNNING_STATES:
            holder = read_holder(self.lease)
            if holder is None or not holder.alive:
                state["status"] = "INTERRUPTED"
                state["error"] = "its process is gone; no heartbeat"
        elif state["status"] == "SUCCEEDED":
            try:
                read_json(self.path / "result.json")
            except ArtifactError as error:
                state["status"], state["error"] = "UNKNOWN", str(error)
        return state


def new_run_id() -> str:
    """A new id that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S") + "-" + secrets.token_hex(2)
