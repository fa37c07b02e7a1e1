"""A job as KubeRay takes it: a RayJob and the ConfigMap with its job file. Pure values: what
`render` shows is what `submit` sends.

No value of a job reaches a shell: the entrypoint is a fixed list of words, the job file a mounted
file, and everything else a container's own environment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import heliostat
from heliostat.catalog.code import PackedCode
from heliostat.errors import Problem, UserError
from heliostat.launch.own_code import packed, storage_problems, with_code_at
from heliostat.launch.placement import Placement, place
from heliostat.launch.pods import (
    CONTAINER_SECURITY,
    DRAIN_SECONDS,
    JOB_FOLDER,
    SCRATCH,
    STOP_SECONDS,
    Value,
    head_pod,
    submitter_pod,
    worker_pod,
)
from heliostat.spec.kuberay import KubeRaySpec
from heliostat.spec.load import Job
from heliostat.storage.runs import ID_PATTERN, new_run_id

GROUP, VERSION, KIND, PLURAL = "ray.io", "v1", "RayJob", "rayjobs"
JOB_FILE = "job.json"
RUN_LABEL, NAME_LABEL, RUN_ANNOTATION = "heliostat/key", "heliostat/name", "heliostat/run"
RAY_VERSION = "2.60.0"
GRACE_MINUTES = 15  # to start, to stop and to clean up, beside the job's own limit
MAX_CONFIG_BYTES = 2**20  # Kubernetes refuses a ConfigMap above it
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
DNS_WORD = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL_VALUE = re.compile(f"(?:{NAME})?")
LABEL_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){DNS_WORD}(?:\.{DNS_WORD})*/)?{NAME}")
TAKEN_PREFIXES = ("heliostat/", "ray.io/", "kueue.x-k8s.io/")
JOB_LABELS, JOB_PREFIX = {"job-name", "controller-uid"}, "batch.kubernetes.io/"
ELASTIC_KEY = "kueue.x-k8s.io/elastic-job"


@dataclass(frozen=True)
class KubeRequest:
    """What will be sent: `objects` in the order in which they are made."""

    namespace: str
    name: str
    run: str
    objects: tuple[Mapping[str, Any], ...]
    placement: Placement
    code: PackedCode | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The ConfigMap with the job file."""
        return next(o for o in self.objects if o["kind"] == "ConfigMap")

    @property
    def rayjob(self) -> Mapping[str, Any]:
        """The RayJob among them."""
        return next(o for o in self.objects if o["kind"] == KIND)

    def to_json(self) -> dict[str, Any]:
        """As one Kubernetes List."""
        return {"apiVersion": "v1", "kind": "List", "items": [dict(o) for o in self.objects]}


def render(job: Job, cluster: KubeRaySpec, run_id: str | None, verb: str = "run") -> KubeRequest:
    """The request to `run` or to `prepare` a job.

    Raises:
        UserError: the id, a label, a secret or the storage is not fit for the cluster, or no group
            holds the workers.
    """
    if run_id is None:
        run_id = new_run_id() if verb == "run" else f"{verb}-{new_run_id()}"
    problems = list(_problems(job, cluster, run_id))
    if problems:
        raise UserError(problems)
    reference = f"{job.spec.name}/{run_id}"
    name = object_name(job.spec.name, run_id)
    code = packed(job)
    value = with_code_at(job, f"{job.spec.storage}/{code.place}") if code else dict(job.value)
    labels = {NAME_LABEL: job.spec.name, RUN_LABEL: name} | dict(job.spec.labels)
    placement = place(job.spec, cluster)
    queue = _queue_labels(cluster, placement)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name, cluster, labels, reference),
        "data": {JOB_FILE: _job_file(value)},
    }
    words = ["python", "-m", "heliostat", verb, f"{JOB_FOLDER}/{JOB_FILE}"]
    words += ["--id", run_id] if verb == "run" else []
    metadata = _metadata(name, cluster, labels | queue, reference)
    if ELASTIC_KEY in queue:  # an annotation is what Kueue goes by
        metadata["annotations"][ELASTIC_KEY] = queue[ELASTIC_KEY]
    rayjob = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": metadata,
        "spec": _rayjob_spec(job, cluster, placement, name, labels, " ".join(words)),
    }
    return KubeRequest(cluster.namespace, name, reference, (config, rayjob), placement, code)


def object_name(name: str, run_id: str) -> str:
    """The name of a run's objects: the same run is the same object, so that none is sent twice. At
    most 41 characters; the operator takes 47.
    """
    return f"{name}-{hashlib.sha256(f'{name}/{run_id}'.encode()).hexdigest()[:10]}"


def _rayjob_spec(
    job: Job,
    cluster: KubeRaySpec,
    placement: Placement,
    name: str,
    labels: Mapping[str, str],
    entrypoint: str,
) -> Value:
    limits = job.spec.limits
    spec: Value = {
        "entrypoint": entrypoint,
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": cluster.ttl_minutes * 60,
        "preRunningDeadlineSeconds": int(limits.start_minutes * 60),
        # What can be mended is mended inside: a retry would throw the whole cluster away.
        "backoffLimit": 0,
        "submitterPodTemplate": submitter_pod(cluster, labels),
        "rayClusterSpec": _cluster_spec(job, cluster, placement, name, labels),
    }
    if limits.hours is not None:
        minutes = limits.hours * 60 + limits.start_minutes + GRACE_MINUTES
        spec["activeDeadlineSeconds"] = int(minutes * 60)
    return spec


def _cluster_spec(
    job: Job, cluster: KubeRaySpec, placement: Placement, name: str, labels: Mapping[str, str]
) -> Value:
    environment = list(_environment(job, cluster))
    group = placement.group
    spec: Value = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", "secretName": cluster.token_secret},
        "headGroupSpec": {
            # The head drives; ranks and data tasks run in the workers' pods.
            "rayStartParams": {"num-cpus": "0"},
            "template": head_pod(cluster, labels, name, environment, placement.is_elastic),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": placement.least,
                "minReplicas": placement.least,
                "maxReplicas": placement.most,
                "rayStartParams": {},
                "template": worker_pod(cluster, group, labels, environment),
            }
        ],
    }
    if placement.is_elastic:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "securityContext": CONTAINER_SECURITY,
        }
    return spec


def _environment(job: Job, cluster: KubeRaySpec) -> Iterator[Value]:
    yield {"name": "HELIOSTAT_SENT_BY", "value": heliostat.__version__}
    price = place(job.spec, cluster).price_per_hour(cluster)
    if price:
        yield {"name": "HELIOSTAT_PRICE_PER_HOUR", "value": f"{price:g}"}
    yield {"name": "HELIOSTAT_CACHE", "value": f"{SCRATCH}/cache"}
    yield {"name": "TMPDIR", "value": SCRATCH}
    yield {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(STOP_SECONDS)}
    yield {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": str(DRAIN_SECONDS)}
    webhook = ["HELIOSTAT_WEBHOOK"] if "HELIOSTAT_WEBHOOK" in cluster.secrets else []
    for variable in [*job.spec.secrets, *webhook]:
        key = cluster.secrets[variable]
        source = {"secretKeyRef": {"name": key.name, "key": key.key}}
        yield {"name": variable, "valueFrom": source}


def _metadata(name: str, cluster: KubeRaySpec, labels: Mapping[str, str], reference: str) -> Value:
    return {
        "name": name,
        "namespace": cluster.namespace,
        "labels": dict(labels),
        "annotations": {RUN_ANNOTATION: reference},
    }


def _job_file(value: Mapping[str, Any]) -> str:
    """The job file as it is sent."""
    text = json.dumps(value, indent=1, sort_keys=True)
    if (size := len(text.encode())) > MAX_CONFIG_BYTES:
        what = f"it takes {size:,} bytes as it is sent; a ConfigMap holds {MAX_CONFIG_BYTES:,}"
        raise UserError(Problem("JOB", what, "name files by a glob, features by a pattern"))
    return text


def _queue_labels(cluster: KubeRaySpec, placement: Placement) -> dict[str, str]:
    labels = {}
    if cluster.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = cluster.queue
        if placement.is_elastic:
            labels[ELASTIC_KEY] = "true"
    if cluster.queue_priority is not None:
        labels["kueue.x-k8s.io/priority-class"] = cluster.queue_priority
    return labels


def _problems(job: Job, cluster: KubeRaySpec, run_id: str) -> Iterator[Problem]:
    if not ID_PATTERN.fullmatch(run_id):
        what = f"`{run_id}` must be up to 63 letters, digits, '.', '_' or '-'"
        yield Problem("--id", what)
    for key, value in job.spec.labels.items():
        if not (LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(value)):
            what = "Kubernetes takes up to 63 letters, digits, '.', '_' or '-' in a label"
            yield job.problem(f"labels.{key}", f"`{key}: {value}`: {what}")
        if _is_the_submitters(key) or key.startswith(TAKEN_PREFIXES):
            yield job.problem(f"labels.{key}", f"`{key}` is not for jobs to set", "rename it")
    for key in _patched_labels(cluster):
        if _is_the_submitters(key):
            yield Problem(
                "--to", f"`pod_patch` of the site file sets the label `{key}`", "remove it"
            )
    for variable in job.spec.secrets:
        if variable not in cluster.secrets:
            known = ", ".join(sorted(cluster.secrets)) or "none"
            what = f"the site file does not say where `{variable}` comes from"
            yield job.problem("secrets", what, f"it knows {known}")
    yield from storage_problems(job, "pods")


def _is_the_submitters(label: str) -> bool:
    """Whether Kubernetes sets it on the pods of the submitter's Job, and takes no other."""
    return label in JOB_LABELS or label.startswith(JOB_PREFIX)


def _patched_labels(cluster: KubeRaySpec) -> list[str]:
    metadata = cluster.pod_patch.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
    return list(labels) if isinstance(labels, Mapping) else []
