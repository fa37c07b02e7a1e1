"""The folders of a storage: runs by name and id, ledgers, prepared data."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from heliostat.errors import ArtifactError, Problem, StorageError, UserError
from heliostat.spec.load import Job
from heliostat.storage.files import read_as, write_json
from heliostat.storage.lease import read_holder
from heliostat.storage.objects import StorePath, as_path
from heliostat.storage.promoted import aliases, read_promoted

ID_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")
NAME_PATTERN = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?")  # of a job
MARKER = "heliostat.json"
OTHER_STORAGE = "name another one by `storage`"
DEFAULT_STORAGE = "runs"  # beside the job file; for what has none, in the current folder
IDENTITY = "identity.json"  # what a run began as; the first file of its folder
STATE = "state.json"
RUNNING_STATES = ("PENDING", "RUNNING")
Status = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED", "INTERRUPTED"]


class State(BaseModel, extra="allow"):
    """What `state.json` must hold, and the types of what it may."""

    status: Status
    attempt: int = 0
    labels: dict[str, str] = {}
    progress: float = 0.0
    eta_seconds: float | None = None
    error: str | None = None
    next: str = ""
    placement: dict[str, str] = {}
    hours: dict[str, float] = {}


class _Result(BaseModel):
    """What the result of a run that succeeded must hold."""

    name: str
    run: str
    objective: dict[str, Any]
    metrics: dict[str, dict[str, Any]]


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
        storage = cls.at(location)
        try:
            storage.root.mkdir(parents=True, exist_ok=True)
            if not (storage.root / MARKER).exists():
                write_json(storage.root / MARKER, {"what": "heliostat storage"})
        except StorageError as error:
            raise UserError(Problem("storage", str(error), OTHER_STORAGE)) from None
        except OSError as error:
            what = f"`{storage.root}` cannot be written: {error.strerror or error}"
            raise UserError(Problem("storage", what, OTHER_STORAGE)) from None
        return storage

    @classmethod
    def at(cls, location: str) -> Storage:
        """The storage at `location`, to be looked into: nothing is made there.

        Raises:
            UserError: it is no place we know, or its store does not answer.
        """
        root = as_path(location)
        if isinstance(root, Path):
            return cls(root.expanduser().absolute())  # workers have other current folders
        try:
            root.reach()
        except StorageError as error:
            raise UserError(Problem("storage", str(error))) from None
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
        """Every run, oldest first; what others have put beside them is none."""
        begun: list[tuple[float, RunFolder]] = []
        for path in (self.root / "runs").glob(f"{name or '*'}/*/{IDENTITY}"):
            try:
                begun.append((path.stat().st_mtime, RunFolder(path.parent)))
            except (OSError, StorageError):
                continue  # it has been removed meanwhile
        for _, folder in sorted(begun, key=lambda entry: entry[0]):
            yield folder

    def find(self, reference: str) -> RunFolder:
        """The run called NAME (its latest), NAME/ID or MODEL@ALIAS, or the folder of one.

        Raises:
            UserError: there is none.
        """
        if (folder := self._exactly(reference)) is not None:
            return folder
        if runs := self._called(reference):
            return runs[-1]
        raise UserError(self._nothing_like(reference))

    def find_model(self, reference: str) -> RunFolder:
        """As `find`, where NAME is its latest run that succeeded: the run of a finished model.

        Raises:
            UserError: there is none.
        """
        if (folder := self._exactly(reference)) is not None:
            return folder
        runs = self._called(reference)
        if not runs:
            raise UserError(self._nothing_like(reference))
        for folder in reversed(runs):
            if folder.read_state()["status"] == "SUCCEEDED":
                return folder
        latest = runs[-1]
        what = f"no run of `{reference}` has succeeded; {latest.reference}, the latest, is "
        raise UserError(Problem(str(self.root), what + str(latest.read_state()["status"])))

    def _exactly(self, reference: str) -> RunFolder | None:
        """The run called NAME/ID or MODEL@ALIAS, or a run's folder."""
        if "@" in reference and "/" not in reference:
            return self._promoted(reference)
        name, _, run_id = reference.partition("/")
        named = RunFolder(self.root / "runs" / reference)
        if ID_PATTERN.fullmatch(run_id) and NAME_PATTERN.fullmatch(name) and named.exists:
            return named
        if not run_id and self._called(name):
            return None
        folder = as_path(reference)
        found = RunFolder(folder.resolve() if isinstance(folder, Path) else folder)
        return found if found.exists else None

    def _called(self, name: str) -> list[RunFolder]:
        return list(self.runs(name)) if NAME_PATTERN.fullmatch(name) else []

    def _nothing_like(self, reference: str) -> Problem:
        known = sorted({folder.name for folder in self.runs()})
        hint = f"known names: {', '.join(known)}" if known else "there is no run here yet"
        elsewhere = "`--storage` names another place; a job's own is `runs` beside its file"
        return Problem(str(self.root), f"no run `{reference}` here", f"{hint}. {elsewhere}")

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
    def storage(self) -> Storage:
        """The storage that it lies in."""
        return Storage(self.path.parent.parent.parent)

    @property
    def arguments(self) -> str:
        """What a verb needs to find it: its name, and its storage if that is not where a verb looks
        by itself.
        """
        root = self.storage.root
        if root == Path.cwd() / DEFAULT_STORAGE:
            return self.reference
        return f"{self.reference} --storage {shlex.quote(str(root))}"

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

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / IDENTITY).exists() or (self.path / STATE).exists()

    def read_state(self) -> dict[str, Any]:
        """`state.json`, told as it is: a run nobody drives any more is INTERRUPTED, one without a
        whole `result.json` is never SUCCEEDED, and one whose state cannot be read is UNKNOWN.
        """
        try:
            state = read_as(self.path / STATE, State).model_dump(exclude_unset=True)
        except ArtifactError as error:
            if (self.path / STATE).exists():
                return {"status": "UNKNOWN", "error": str(error)}
            state = {"status": "PENDING"}  # it has been claimed, and comes to its state soon
        if state["status"] in RUNNING_STATES:
            holder = read_holder(self.lease)
            if holder is None or not holder.alive:
                state["status"] = "INTERRUPTED"
                state["error"] = "its process is gone; no heartbeat"
        elif state["status"] == "SUCCEEDED":
            try:
                read_as(self.path / "result.json", _Result)
            except ArtifactError as error:
                state["status"], state["error"] = "UNKNOWN", str(error)
        return state


def storage_of(job: Job) -> str:
    """Where a job keeps its runs: where it says, or beside its file, as its data is."""
    return job.spec.storage or f"{job.folder}/{DEFAULT_STORAGE}"


def new_run_id() -> str:
    """A new id that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S") + "-" + secrets.token_hex(2)
