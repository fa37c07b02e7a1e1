"""Why the pods of a run do not come, as far as its cluster says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from heliostat.errors import ClusterRefusedError
from heliostat.launch.kube_client import api_client, body_of, if_there
from heliostat.launch.rayjob import GROUP, RUN_LABEL, VERSION
from heliostat.spec.kuberay import KubeRaySpec

NUM_WARNINGS, LONGEST_REASON = 3, 300
COMING = {"ContainerCreating", "PodInitializing"}


def why_waiting(cluster: KubeRaySpec, name: str, rayjob: Mapping[str, Any]) -> list[str]:
    """The conditions of its RayCluster, what its pods wait for, and the latest warnings, each
    once. A part that we may not see is a reason, too.

    Raises:
        ClusterUnavailableError: the cluster does not answer.
    """
    made = (rayjob.get("status") or {}).get("rayClusterName")
    parts: list[Callable[[], Iterator[str]]] = [
        lambda: _conditions(cluster, made),
        lambda: _pods(cluster, name),
        lambda: _warnings(cluster, name),
    ]
    found: list[str] = []
    for part in parts:
        try:
            reasons = list(part())
        except ClusterRefusedError as error:
            reasons = [f"why is not to be seen: {error}"]
        for reason in map(_shortened, reasons):
            if not any(reason in known or known in reason for known in found):
                found.append(reason)
    return found


def _shortened(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 1]}…"


def _conditions(cluster: KubeRaySpec, name: str | None) -> Iterator[str]:
    """What the operator could not make: a quota, a priority class or an account is the reason."""
    if not name:
        return
    with api_client(cluster) as client:
        from kubernetes.client import CustomObjectsApi

        call = CustomObjectsApi(client).get_namespaced_custom_object
        found = if_there(name, call, GROUP, VERSION, cluster.namespace, "rayclusters", name)
    status = (found or {}).get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield _said(condition)
    if status.get("state") == "failed" and status.get("reason"):
        yield status["reason"]


def _pods(cluster: KubeRaySpec, name: str) -> Iterator[str]:
    """What pods wait for: a node, an image, a Secret."""
    with api_client(cluster) as client:
        from kubernetes.client import CoreV1Api

        call = CoreV1Api(client).list_namespaced_pod
        found = body_of(
            client,
            call(cluster.namespace, label_selector=f"{RUN_LABEL}={name}", _preload_content=False),
        )
    told: Counter[tuple[str, str]] = Counter()
    for pod in json.loads(found)["items"] or []:
        kind = (pod["metadata"].get("labels") or {}).get("ray.io/node-type", "submitter")
        told.update((kind, reason) for reason in set(_hindrances(pod.get("status") or {})))
    for (kind, reason), count in told.items():
        yield f"{count} {kind} pod{'s'[: count > 1]}: {reason}"


def _hindrances(status: Mapping[str, Any]) -> Iterator[str]:
    if status.get("phase") == "Failed" and status.get("reason"):
        yield _said(status)
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield _said(condition)
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            waiting = container.get("state", {}).get("waiting")
            if waiting and waiting.get("reason") not in COMING:
                yield _said(waiting)


def _warnings(cluster: KubeRaySpec, name: str) -> Iterator[str]:
    """The latest warnings about what belongs to the run: its RayCluster, pods and Kueue's Workload
    bear its name.
    """
    with api_client(cluster) as client:
        from kubernetes.client import CoreV1Api

        call = CoreV1Api(client).list_namespaced_event
        found = body_of(
            client, call(cluster.namespace, field_selector="type=Warning", _preload_content=False)
        )
    own = [event for event in json.loads(found)["items"] or [] if _is_about(event, name)]
    texts = dict.fromkeys(_said(event) for event in sorted(own, key=_when, reverse=True))
    yield from list(texts)[:NUM_WARNINGS]


def _is_about(event: Mapping[str, Any], name: str) -> bool:
    about = event["involvedObject"].get("name") or ""
    return about == name or about.startswith((f"{name}-", f"rayjob-{name}-"))


def _when(event: Mapping[str, Any]) -> str:
    made = event["metadata"].get("creationTimestamp")
    return str(event.get("lastTimestamp") or event.get("eventTime") or made or "")


def _said(value: Mapping[str, Any]) -> str:
    """The reason and the message of a condition, a state or an event."""
    return ": ".join(filter(None, (value.get("reason"), value.get("message")))) or "no reason given"
