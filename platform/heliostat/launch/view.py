"""What is known of a run from here: its cluster first, its storage when the cluster is gone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from heliostat.errors import (
    ArtifactError,
    ClusterRefusedError,
    LaunchError,
    StoppedError,
    UnknownOutcomeError,
    UserError,
)
from heliostat.launch.clusters import Destination, destination
from heliostat.launch.sent import Sent, all_sent, find_sent
from heliostat.launch.target import find_cluster
from heliostat.report.follow import new_lines, result_of, resume_command
from heliostat.report.result import Result
from heliostat.spec.site import SiteSpec
from heliostat.storage.files import write_json
from heliostat.storage.runs import RUNNING_STATES, RunFolder, Storage

ENDED = ("SUCCEEDED", "FAILED", "STOPPED", "INTERRUPTED")
CLOSING_SECONDS, LOOK_SECONDS = 120.0, 0.5


@dataclass(frozen=True)
class RunView:
    """A run by name: its folder if storage has one, its submission if it was sent from here. Of
    one that was sent again and has not begun again, `earlier` is the folder as it was left.
    """

    reference: str
    folder: RunFolder | None
    sent: Sent | None
    site: SiteSpec
    storage: Storage
    earlier: RunFolder | None = None

    @property
    def cluster(self) -> Destination | None:
        """The cluster it was sent to, if the site file still names it."""
        if self.sent is None:
            return None
        try:
            return destination(find_cluster(self.site, self.sent.cluster))
        except UserError:
            return None

    def state(self) -> dict[str, Any]:
        """Its state: storage where the run has written one, else what its cluster says."""
        if self.folder is not None:
            return self.folder.read_state() | {"run": self.reference}
        cluster, sent = self.cluster, self.sent
        if cluster is None or sent is None:
            if self.earlier is not None:
                return self.earlier.read_state() | {"run": self.reference}
            return {"run": self.reference, "status": "UNKNOWN", "error": "no cluster and no folder"}
        try:
            status, message = cluster.look(sent.submission_id)
        except LaunchError as error:
            if self.earlier is not None:
                return self.earlier.read_state() | {"run": self.reference}
            return {"run": self.reference, "status": "UNKNOWN", "error": str(error)}
        if status == "UNKNOWN" and self.earlier is not None:
            return self.earlier.read_state() | {"run": self.reference}
        # A job that Ray calls succeeded, but that left no result here, did not succeed for us.
        if status == "SUCCEEDED" and sent.verb == "run":
            status, message = "UNKNOWN", "the job ended, but its folder is not in this storage"
        return {"run": self.reference, "status": status, "error": message or None}

    def lines(self, follow: bool) -> Iterator[str]:
        """What the run said, each line once; with `follow`, until it ends."""
        folder, cluster, sent = self.folder, self.cluster, self.sent
        told: Counter[str] = Counter()
        if folder is None and cluster is not None and sent is not None:
            try:
                for line in cluster.lines(
                    sent.submission_id, follow, lambda: self._begun() is not None
                ):
                    told[line] += 1
                    yield line
                if cluster.tells_all:
                    return
            except LaunchError as error:
                if self._begun() is None:
                    if follow and isinstance(error, ClusterRefusedError):
                        what = f"{self.reference} can be followed no longer, and may go on: {error}"
                        raise UnknownOutcomeError(what) from error
                    raise
            folder = self._begun()
        if folder is not None:
            begun = folder
            for line in new_lines(
                begun, lambda: follow and begun.read_state()["status"] in RUNNING_STATES
            ):
                told[line] -= 1
                if told[line] < 0:  # its cluster has not told it
                    yield line

    def _begun(self) -> RunFolder | None:
        """Its folder, if it has made one since."""
        try:
            folder = self.storage.find(self.reference)
        except UserError:
            return None
        return folder if self.sent is None or _has_begun(folder, self.sent) else None

    def result(self) -> Result | None:
        """Its result, or the error that its end stands for; None of what has none."""
        state = self.state()
        if self.folder is None:
            if state["status"] == "SUCCEEDED":
                return None
            raise result_error(self.reference, state)
        return result_of(self.folder, state)

    def stop(self) -> str:
        """Ask it to stop; a sentence about what that did."""
        state = self.state()
        if state["status"] in ENDED:
            return f"{self.reference} has ended already: {state['status']}"
        if self.folder is not None:
            write_json(self.folder.stop_request, {"why": "heliostat stop"})
            again = resume_command(self.folder)
            return f"{self.reference} will commit a checkpoint and stop. To continue it:\n  {again}"
        if self.cluster is not None and self.sent is not None:
            stopped = self.cluster.withdraw(self.sent.submission_id)
            if stopped:
                return f"{self.reference} had not begun; it is withdrawn"
            status = self.state()["status"]
            return f"{self.reference} is still {status} at its cluster; stop it when it has begun"
        raise LaunchError(f"{self.reference}: neither its cluster nor its folder can be reached")


def find_run(storage: Storage, site: SiteSpec, reference: str) -> RunView:
    """The run called NAME, NAME/ID or by its folder.

    Raises:
        UserError: neither the storage nor this machine's submissions know it.
    """
    sent = find_sent(storage, reference)
    try:
        folder = storage.find(sent.reference if sent else reference)
    except UserError:
        if sent is None:
            raise
        return RunView(sent.reference, None, sent, site, storage)
    if sent is not None and not _has_begun(folder, sent):
        return RunView(folder.reference, None, sent, site, storage, folder)
    return RunView(folder.reference, folder, sent, site, storage)


def wait_for_close(
    storage: Storage, site: SiteSpec, reference: str, tell: Callable[[str], None]
) -> None:
    """Wait while a run has ended without success, and its process at the cluster still goes down:
    sent again now, it would be taken for one that is there. `tell` is called if that takes long.
    """
    told, deadline = False, time.monotonic() + CLOSING_SECONDS
    while time.monotonic() < deadline and _is_closing(storage, site, reference):
        if not told:
            tell(f"waiting for the last attempt of {reference} to leave its cluster")
        told = True
        time.sleep(LOOK_SECONDS)


def _is_closing(storage: Storage, site: SiteSpec, reference: str) -> bool:
    try:
        view = find_run(storage, site, reference)
        if view.folder is None or view.sent is None or view.cluster is None:
            return False
        if view.state()["status"] not in ("FAILED", "STOPPED", "INTERRUPTED"):
            return False
        return view.cluster.look(view.sent.submission_id)[0] in ("PENDING", "RUNNING")
    except (ArtifactError, UserError, LaunchError):  # not known here; or told by who sends it
        return False


def _has_begun(folder: RunFolder, sent: Sent) -> bool:
    """Whether what was sent has come to the run's folder."""
    return int(folder.read_state().get("attempt", 0)) > sent.after_attempt


def all_runs(storage: Storage, site: SiteSpec) -> list[RunView]:
    """Every run of the storage, then those that were sent and have not written anything yet."""
    sent = {item.reference: item for item in all_sent(storage)}
    views = [
        RunView(f.reference, f, sent.pop(f.reference, None), site, storage) for f in storage.runs()
    ]
    return views + [RunView(run, None, item, site, storage) for run, item in sent.items()]


def result_error(reference: str, state: dict[str, Any]) -> Exception:
    """The error for a run that has no folder here."""
    if state["status"] == "STOPPED":
        return StoppedError(f"{reference} was stopped before it began")
    sentence = f"{reference} is {state['status']}: {state.get('error')}"
    return LaunchError(sentence) if state["status"] == "FAILED" else UnknownOutcomeError(sentence)
