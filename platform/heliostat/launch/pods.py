"""Pods of a RayJob: head, workers, submitter. Pure values, fit for restricted pod security."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.spec.kuberay import HeadSpec, KubeRaySpec, WorkerGroup

Value = dict[str, Any]
JOB_FOLDER, SCRATCH = "/etc/heliostat", "/scratch"
DRAIN_SECONDS, GRACE_SECONDS = 90, 120  # a pod lives longer than Ray takes to drain its node
STOP_SECONDS = 60  # from Ray's SIGTERM to its SIGKILL: time for a checkpoint
CONTAINERS = {"ray-head", "ray-worker", "ray-job-submitter"}
USER = 1000  # Ray's images run as it
CONTAINER_SECURITY: Value = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD_SECURITY: Value = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def head_pod(
    cluster: KubeRaySpec,
    labels: Mapping[str, str],
    job_map: str,
    environment: Sequence[Value],
    autoscales: bool,
) -> Value:
    """The pod that runs Ray's services and drives the run; never on a spot node. Its autoscaler
    asks the API server: the operator gives the pod's account the rights for that, or makes one.
    """
    head: HeadSpec = cluster.head
    container = _container("ray-head", cluster, head.cpu, head.memory, 0, environment)
    container["volumeMounts"].append({"name": "job", "mountPath": JOB_FOLDER, "readOnly": True})
    pod = _pod(cluster, labels, container, head.node_selector, cluster.service_account)
    pod["metadata"]["annotations"] = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    pod["spec"]["volumes"].append({"name": "job", "configMap": {"name": job_map}})
    if autoscales:
        pod["spec"]["automountServiceAccountToken"] = True
    return _with_patch(pod, cluster)


def worker_pod(
    cluster: KubeRaySpec,
    group: WorkerGroup,
    labels: Mapping[str, str],
    environment: Sequence[Value],
) -> Value:
    """A pod that ranks and data tasks run in; the pods of a group spread over the nodes."""
    container = _container("ray-worker", cluster, group.cpu, group.memory, group.gpu, environment)
    pod = _pod(cluster, labels, container, group.node_selector, cluster.service_account)
    pod["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels) | {"ray.io/group": group.name}},
        }
    ]
    tolerations = []
    if group.gpu:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if group.spot:
        tolerations.append({"key": "heliostat/spot", "operator": "Exists", "effect": "NoSchedule"})
    if tolerations:
        pod["spec"]["tolerations"] = tolerations
    return _with_patch(pod, cluster)


def submitter_pod(cluster: KubeRaySpec, labels: Mapping[str, str]) -> Value:
    """The pod that hands the entrypoint to Ray and repeats what it says."""
    container = _container("ray-job-submitter", cluster, 0.5, 512 * 2**20, 0, ())
    pod = _pod(cluster, labels, container, {}, cluster.submitter_service_account)
    pod["spec"]["restartPolicy"] = "Never"
    return _with_patch(pod, cluster)


def _pod(
    cluster: KubeRaySpec,
    labels: Mapping[str, str],
    container: Value,
    node_selector: Mapping[str, str],
    account: str | None,
) -> Value:
    spec: Value = {
        "automountServiceAccountToken": False,
        "containers": [container],
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    if account is not None:
        spec["serviceAccountName"] = account
    if cluster.priority is not None:
        spec["priorityClassName"] = cluster.priority
    if node_selector:
        spec["nodeSelector"] = dict(node_selector)
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _container(
    name: str,
    cluster: KubeRaySpec,
    cpu: float,
    memory: int,
    gpu: int,
    environment: Sequence[Value],
) -> Value:
    size: dict[str, str] = {"cpu": f"{cpu:g}", "memory": str(memory)}
    if gpu:
        size["nvidia.com/gpu"] = str(gpu)
    container: Value = {
        "name": name,
        "image": cluster.image,
        "imagePullPolicy": cluster.pull_policy,
        "env": list(environment),
        "resources": {"requests": size, "limits": size},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
    }
    if cluster.storage_secret is not None and environment:  # the submitter reads no storage
        container["envFrom"] = [{"secretRef": {"name": cluster.storage_secret}}]
    return container


def _with_patch(pod: Value, cluster: KubeRaySpec) -> Value:
    """The pod with the site's patch, of which what names another pod's container is left out."""
    [own] = (container["name"] for container in pod["spec"]["containers"])
    patch = dict(cluster.pod_patch)
    if "containers" in patch.get("spec", {}):
        kept = [c for c in patch["spec"]["containers"] if c["name"] not in CONTAINERS - {own}]
        # An empty list would take the place of the pod's own.
        rest = {key: value for key, value in patch["spec"].items() if key != "containers"}
        patch["spec"] = rest | ({"containers": kept} if kept else {})
    merged: Value = patched(pod, patch)
    return merged


def patched(value: Any, patch: Any) -> Any:
    """`patch` merged into `value`: maps by key (null removes), lists of named things by `name`,
    anything else in place of what was there.
    """
    if isinstance(value, dict) and isinstance(patch, dict):
        merged = {key: entry for key, entry in value.items() if patch.get(key, ...) is not None}
        for key, entry in patch.items():
            if entry is not None:
                merged[key] = patched(value.get(key), entry)
        return merged
    if _is_named(value) and _is_named(patch):
        by_name = {entry["name"]: entry for entry in value}
        for entry in patch:
            by_name[entry["name"]] = patched(by_name.get(entry["name"]), entry)
        return list(by_name.values())
    return patch


def _is_named(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) and "name" in entry for entry in value)
    )
