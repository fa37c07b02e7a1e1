"""Where runs were sent from this machine: so that `status`, `logs` and `stop` find them again
by name alone. A convenience: the cluster and the storage hold the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from heliostat.errors import ArtifactError, ClusterRefusedError, UserError
from heliostat.spec.site import Cluster
from heliostat.storage.files import read_as, write_json
from heliostat.storage.lines import tell_once
from heliostat.storage.objects import StorePath, matching
from heliostat.storage.runs import Storage

CLUSTER: TypeAdapter[str | Cluster] = TypeAdapter(str | Cluster)


@dataclass(frozen=True)
class Sent:
    """A submission: the run, the cluster it went to (by its name in the site file, or as the job
    wrote it), and its id there. A `verb` other than `run` leaves no run folder; `after_attempt` is
    the attempt that the run had come to when it was sent.
    """

    name: str
    run_id: str
    cluster: str | Cluster
    submission_id: str
    verb: str = "run"
    after_attempt: int = 0

    @property
    def reference(self) -> str:
        """NAME/ID."""
        return f"{self.name}/{self.run_id}"


def remember(storage: Storage, sent: Sent) -> None:
    """Keep a submission under the storage."""
    cluster = CLUSTER.dump_python(sent.cluster, mode="json", by_alias=True)
    write_json(_folder(storage) / f"{sent.submission_id}.json", vars(sent) | {"cluster": cluster})


@contextmanager
def recorded(storage: Storage, sent: Sent) -> Iterator[Callable[[str], None]]:
    """Keeps `sent` with the id that it is called with, before it is sent. Of what a cluster has
    refused nothing is kept but what was known before.
    """
    known, kept = find_sent(storage, sent.reference), []

    def record(submission: str) -> None:
        kept.append(replace(sent, submission_id=submission))
        remember(storage, kept[-1])

    try:
        yield record
    except (ClusterRefusedError, UserError):
        for refused in kept:
            (_folder(storage) / f"{refused.submission_id}.json").unlink(missing_ok=True)
        if kept and known is not None:
            remember(storage, known)
        raise


def all_sent(storage: Storage) -> Iterator[Sent]:
    """Every submission remembered, oldest first."""
    paths = sorted(matching(_folder(storage), "*.json"), key=lambda path: path.stat().st_mtime)
    for path in paths:
        try:
            yield read_as(path, Sent)
        except ArtifactError as error:
            tell_once(f"{error}; it is skipped")


def find_sent(storage: Storage, reference: str) -> Sent | None:
    """The submission called NAME/ID, or the latest called NAME."""
    found = [s for s in all_sent(storage) if reference in (s.name, s.reference)]
    return found[-1] if found else None


def _folder(storage: Storage) -> StorePath:
    return storage.root / "sent"
