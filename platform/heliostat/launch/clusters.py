"""The two kinds of clusters that jobs are sent to, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from heliostat.launch import kube, ray_job, rayjob
from heliostat.launch.kube_send import Tell, submit
from heliostat.launch.own_code import keep
from heliostat.spec.kuberay import KubeRaySpec
from heliostat.spec.load import Job
from heliostat.spec.site import AddressCluster, Cluster


class Rendered(Protocol):
    """What would be sent for a `run`, NAME/ID: to be shown, or to be sent once."""

    run: str

    def to_json(self) -> dict[str, Any]:
        """All of it, for people and for GitOps."""

    def send(self, tell: Tell, record: Tell) -> tuple[str, bool]:
        """Send it: its id there, and whether that is new. Before anything is sent, `record` is
        called with its id; `tell` with what the user should know.
        """


class Destination(Protocol):
    """A cluster, as far as a sent job goes. One that `tells_all` repeats every line of a run to its
    end; else the run's folder has them.
    """

    tells_all: bool

    def render(self, job: Job, run_id: str | None, verb: str) -> Rendered:
        """The job as this cluster takes it."""

    def look(self, submission: str) -> tuple[str, str]:
        """The state of what was sent, and a sentence."""

    def lines(self, submission: str, follow: bool, begun: Callable[[], bool]) -> Iterator[str]:
        """What it says, each line once; with `follow`, until it ends or has `begun`."""

    def withdraw(self, submission: str) -> bool:
        """End what has left nothing in the storage yet; whether it did."""


def destination(cluster: Cluster) -> Destination:
    """The cluster of a site file."""
    if isinstance(cluster, AddressCluster):
        return RayDestination(cluster)
    return KubeDestination(cluster.kuberay)


class RayDestination:
    """A running Ray cluster, by Ray Jobs."""

    tells_all = True

    def __init__(self, cluster: AddressCluster) -> None:
        self.cluster = cluster

    def render(self, job: Job, run_id: str | None, verb: str) -> Rendered:
        """See `Destination`."""
        request = ray_job.render(job, self.cluster, run_id, verb)
        return _RayRendered(request, self.cluster, job.spec.storage or "")

    def look(self, submission: str) -> tuple[str, str]:
        """See `Destination`."""
        return ray_job.status(self.cluster, submission)

    def lines(self, submission: str, follow: bool, begun: Callable[[], bool]) -> Iterator[str]:
        """See `Destination`."""
        return ray_job.log_lines(self.cluster, submission, follow)

    def withdraw(self, submission: str) -> bool:
        """See `Destination`."""
        return ray_job.stop(self.cluster, submission)


class KubeDestination:
    """A Kubernetes cluster with KubeRay, by RayJobs."""

    tells_all = False

    def __init__(self, cluster: KubeRaySpec) -> None:
        self.cluster = cluster

    def render(self, job: Job, run_id: str | None, verb: str) -> Rendered:
        """See `Destination`."""
        request = rayjob.render(job, self.cluster, run_id, verb)
        return _KubeRendered(request, self.cluster, job.spec.storage or "")

    def look(self, submission: str) -> tuple[str, str]:
        """See `Destination`."""
        status = kube.look(self.cluster, submission)
        if status is None:
            where = f"namespace {self.cluster.namespace}"
            return "UNKNOWN", f"there is no RayJob {submission} in {where} (any more)"
        return status.state, status.sentence

    def lines(self, submission: str, follow: bool, begun: Callable[[], bool]) -> Iterator[str]:
        """See `Destination`: how it comes up; of what ends before it has begun, its output."""
        if follow:
            for status in kube.changes(self.cluster, submission, begun):
                yield f"kuberay   {status.sentence}"
        if not begun():
            yield from kube.submitter_lines(self.cluster, submission)

    def withdraw(self, submission: str) -> bool:
        """See `Destination`."""
        return kube.delete(self.cluster, submission)


class _RayRendered:
    def __init__(self, request: ray_job.Request, cluster: AddressCluster, storage: str) -> None:
        self.request, self.cluster, self.storage = request, cluster, storage
        metadata = request.metadata
        self.run = f"{metadata['heliostat.name']}/{metadata['heliostat.run']}"

    def to_json(self) -> dict[str, Any]:
        return self.request.to_json()

    def send(self, tell: Tell, record: Tell) -> tuple[str, bool]:
        if self.request.packed is not None:
            keep(self.request.packed, self.storage)
        return ray_job.submit(self.request, self.cluster, record)


class _KubeRendered:
    def __init__(self, request: rayjob.KubeRequest, cluster: KubeRaySpec, storage: str) -> None:
        self.request, self.cluster, self.storage = request, cluster, storage
        self.run = request.run

    def to_json(self) -> dict[str, Any]:
        return self.request.to_json()

    def send(self, tell: Tell, record: Tell) -> tuple[str, bool]:
        if self.request.code is not None:
            keep(self.request.code, self.storage)
        return self.request.name, submit(self.request, self.cluster, tell, record)
