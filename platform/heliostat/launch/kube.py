"""RayJobs on a Kubernetes cluster, through its API server: look, watch, delete, read."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from heliostat.errors import ClusterRefusedError, LaunchError
from heliostat.launch.kube_client import api_client, body_of, if_there
from heliostat.launch.kube_reasons import why_waiting
from heliostat.launch.rayjob import GROUP, PLURAL, VERSION
from heliostat.spec.kuberay import KubeRaySpec
from heliostat.storage.lines import split_lines

WATCH_SECONDS, CUT_SECONDS, POLL_SECONDS = 2, 0.1, 1.0
REASON_SECONDS, PATIENCE_SECONDS = 5.0, 300.0
FAILED_BEFORE = {"Failed", "ValidationFailed"}
ENDED = FAILED_BEFORE | {"Complete"}


@dataclass(frozen=True)
class KubeStatus:
    """What the operator says of a RayJob: the pair decides, never one of them alone. `note` is why
    it does not go on, as far as that can be seen from here.
    """

    deployment: str
    job: str
    reason: str = ""
    message: str = ""
    note: str = ""

    @classmethod
    def of(cls, rayjob: Mapping[str, Any]) -> KubeStatus:
        """The status of an object."""
        status = rayjob.get("status") or {}
        return cls(
            status.get("jobDeploymentStatus") or "",
            status.get("jobStatus") or "",
            status.get("reason") or "",
            status.get("message") or "",
            "it is being deleted" if rayjob["metadata"].get("deletionTimestamp") else "",
        )

    @property
    def ended(self) -> bool:
        """Whether the operator is done with it. `jobStatus` may say RUNNING for ever after."""
        return self.deployment in ENDED

    @property
    def state(self) -> str:
        """The state of a run, as far as the operator knows."""
        if self.deployment in FAILED_BEFORE:
            return "FAILED"
        if self.deployment == "Complete":
            return {"SUCCEEDED": "SUCCEEDED", "STOPPED": "STOPPED", "FAILED": "FAILED"}.get(
                self.job, "UNKNOWN"
            )
        return "RUNNING" if self.deployment == "Running" else "PENDING"

    @property
    def never_ran(self) -> bool:
        """Whether it waits for its pods, or has failed for want of them."""
        return self.state == "PENDING" or (self.state == "FAILED" and not self.job)

    @property
    def sentence(self) -> str:
        """How it stands, for people."""
        pair = " ".join(part for part in (self.deployment or "New", self.job) if part)
        return ": ".join(part for part in (pair, self.reason, self.message, self.note) if part)


def find(cluster: KubeRaySpec, name: str) -> dict[str, Any] | None:
    """The RayJob called `name`; None if there is none.

    Raises:
        LaunchError: the cluster cannot be reached or refuses us.
    """
    with api_client(cluster) as client:
        from kubernetes.client import CustomObjectsApi

        get = CustomObjectsApi(client).get_namespaced_custom_object
        found: dict[str, Any] | None = if_there(
            name, get, GROUP, VERSION, cluster.namespace, PLURAL, name
        )
    return found


def look(cluster: KubeRaySpec, name: str) -> KubeStatus | None:
    """How a RayJob stands, and why it waits if it does; None if there is none."""
    found = find(cluster, name)
    if found is None:
        return None
    status = KubeStatus.of(found)
    if status.never_ran:
        why = why_waiting(cluster, name, found)
        status = replace(status, note="; ".join(filter(None, [status.note, *why])))
    return status


def changes(cluster: KubeRaySpec, name: str, enough: Callable[[], bool]) -> Iterator[KubeStatus]:
    """Each new status of a RayJob, and each new reason why it waits, until it has ended, is gone,
    or there is `enough`. Cut streams, expired versions and tokens, and an API server that is away
    for some minutes do not end it; they are told at once.

    Raises:
        ClusterRefusedError: we may not look any more.
        ClusterUnavailableError: there has been no answer for some minutes.
    """
    last, told, trouble, lost_since, ask_again = KubeStatus("", ""), [""], "", None, 0.0
    first = True
    while True:
        try:
            found, version = _listed(cluster, name)
            trouble, lost_since = "", None
            if found is None:
                return
            for rayjob in itertools.chain([found], _watched(cluster, name, version)):
                status = KubeStatus.of(rayjob)
                if first or status != last:
                    yield status
                    last, first = status, False
                if status.ended or enough():
                    break
            if enough():
                return
            if last.never_ran and (last.ended or time.monotonic() > ask_again):
                why = why_waiting(cluster, name, found)
                if why and why != told:
                    yield replace(last, note="; ".join(why))
                    told = why
                ask_again = time.monotonic() + REASON_SECONDS
            if last.ended:
                return
        except ClusterRefusedError:
            raise
        except LaunchError as error:
            lost_since = lost_since or time.monotonic()
            if str(error) != trouble:
                trouble = str(error)
                yield replace(last, note=trouble)
            if time.monotonic() - lost_since > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def delete(cluster: KubeRaySpec, name: str) -> bool:
    """Delete a RayJob, and with it its cluster; False if it was not there."""
    with api_client(cluster) as client:
        from kubernetes.client import CustomObjectsApi

        call = CustomObjectsApi(client).delete_namespaced_custom_object
        where = (GROUP, VERSION, cluster.namespace, PLURAL, name)
        return if_there(name, call, *where, propagation_policy="Background") is not None


def submitter_lines(cluster: KubeRaySpec, name: str) -> Iterator[str]:
    """What the run's submitter has printed: of a run that has left nothing in its storage. A log
    that cannot be read is a line that says why.
    """
    try:
        pods = _submitters(cluster, name)
    except LaunchError as error:
        yield f"note      the submitter's pods cannot be seen: {error}"
        return
    for pod in pods:
        try:
            text = _log(cluster, pod)
        except LaunchError as error:
            yield f"note      the log of the pod {pod} cannot be read: {error}"
            continue
        if text:
            yield from split_lines(text)
        else:
            yield f"note      the pod {pod} has said nothing yet"


def _submitters(cluster: KubeRaySpec, name: str) -> list[str]:
    """The names of its pods, also of those that have failed."""
    with api_client(cluster) as client:
        from kubernetes.client import CoreV1Api

        call = CoreV1Api(client).list_namespaced_pod
        found = body_of(
            client,
            call(cluster.namespace, label_selector=f"job-name={name}", _preload_content=False),
        )
    return [pod["metadata"]["name"] for pod in json.loads(found)["items"] or []]


def _log(cluster: KubeRaySpec, pod: str) -> str:
    """A pod's log: any bytes, or none if it is not scheduled yet."""
    with api_client(cluster) as client:
        from kubernetes.client import CoreV1Api

        call = CoreV1Api(client).read_namespaced_pod_log
        return body_of(client, call(pod, cluster.namespace, _preload_content=False)).decode(
            errors="replace"
        )


def _listed(cluster: KubeRaySpec, name: str) -> tuple[dict[str, Any] | None, str]:
    """A RayJob, and the version to watch from: that of the list, since an object that has not
    changed for some minutes has one that is too old.
    """
    with api_client(cluster) as client:
        from kubernetes.client import CustomObjectsApi

        call = CustomObjectsApi(client).list_namespaced_custom_object
        where = (GROUP, VERSION, cluster.namespace, PLURAL)
        found = call(*where, field_selector=f"metadata.name={name}")
    items = [item for item in found["items"] if item["metadata"]["name"] == name]
    return (items[0] if items else None), found["metadata"]["resourceVersion"]


def _watched(cluster: KubeRaySpec, name: str, version: str) -> Iterator[Mapping[str, Any]]:
    """Later versions of a RayJob, for some seconds. What ends the stream early is no error: who
    asks looks again.
    """
    with api_client(cluster) as client:
        from kubernetes.client import ApiException, CustomObjectsApi
        from kubernetes.watch import Watch

        stream = Watch().stream(
            CustomObjectsApi(client).list_namespaced_custom_object,
            GROUP,
            VERSION,
            cluster.namespace,
            PLURAL,
            field_selector=f"metadata.name={name}",
            resource_version=version,
            timeout_seconds=WATCH_SECONDS,
        )
        try:
            for event in stream:
                if event["object"]["metadata"]["name"] != name:
                    continue
                if event["type"] == "DELETED":
                    return
                yield event["object"]
        except ApiException as error:
            if error.status != 410:  # the version is too old: look again
                raise
            time.sleep(CUT_SECONDS)
        except (ValueError, TypeError):  # half a line of JSON
            time.sleep(CUT_SECONDS)
