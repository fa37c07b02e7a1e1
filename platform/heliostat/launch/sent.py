"""Where runs were sent from this machine: so that `status`, `logs` and `stop` find them again
by name alone. A convenience: the cluster and the storage hold the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import TypeAdapter

from heliostat.errors import ArtifactError
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
