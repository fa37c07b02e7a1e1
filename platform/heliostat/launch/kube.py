"""RayJobs on a Kubernetes cluster, through its API server: make, look, watch, delete."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from heliostat.errors import LaunchError, Problem, UserError
from heliostat.launch.rayjob import PLURAL, RUN_ANNOTATION, KubeRequest
from heliostat.spec.kuberay import KubeRaySpec

GROUP, VERSION = "ray.io", "v1"
WATCH_SECONDS, POLL_SECONDS, PATIENCE_SECONDS = 2, 1.0, 300.0
FAILED_BEFORE = {"Failed", "ValidationFailed"}
ENDED = FAILED_BEFORE | {"Complete"}


@dataclass(frozen=True)
class KubeStatus:
    """What the operator says of a RayJob: the pair decides, never one of them alone."""

    deployment: str
    job: str
    reason: str = ""
    message: str = ""

    @classmethod
    def of(cls, rayjob: Mapping[str, Any]) -> KubeStatus:
        """The status of an object."""
        status = rayjob.get("status") or {}
        return cls(
            status.get("jobDeploymentStatus") or "",
            status.get("jobStatus") or "",
            status.get("reason") or "",
            status.get("message") or "",
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
    def sentence(self) -> str:
        """How it stands, for people."""
        pair = " ".join(part for part in (self.deployment or "New", self.job) if part)
        return ": ".join(part for part in (pair, self.reason, self.message) if part)


def submit(request: KubeRequest, cluster: KubeRaySpec) -> bool:
    """Make what is not there yet; False if the cluster already has this very run. One that has
    ended without success is made again, and goes on where it was.

    Raises:
        UserError: the API server refuses an object; its reason.
        LaunchError: the cluster cannot be reached or refuses us.
    """
    existing = find(cluster, request.name)
    if existing is not None:
        _check_is_ours(existing, request)
        status = KubeStatus.of(existing)
        if status.ended and status.state != "SUCCEEDED":
            _clear(cluster, request.name)
            existing = None
    made = existing or _create(cluster, request.rayjob)
    owner = {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "name": made["metadata"]["name"],
        "uid": made["metadata"]["uid"],
    }
    for value in request.objects:
        if value["kind"] == "ConfigMap":  # goes when the RayJob goes
            metadata = dict(value["metadata"]) | {"ownerReferences": [owner]}
            _create_config(cluster, dict(value) | {"metadata": metadata})
    return existing is None


def find(cluster: KubeRaySpec, name: str) -> dict[str, Any] | None:
    """The RayJob called `name`; None if there is none."""
    from kubernetes.client import ApiException

    with _plain_errors(cluster):
        try:
            found: dict[str, Any] = _custom(cluster).get_namespaced_custom_object(
                GROUP, VERSION, cluster.namespace, PLURAL, name
            )
        except ApiException as error:
            if error.status == 404:
                return None
            raise
    return found


def changes(cluster: KubeRaySpec, name: str, enough: Callable[[], bool]) -> Iterator[KubeStatus]:
    """Each new status of a RayJob until it has ended, is gone, or there is `enough`. Cut streams,
    expired versions and an API server that is away for some minutes do not end it.
    """
    last, lost_since = None, None
    while True:
        try:
            found = find(cluster, name)
            lost_since = None
            for rayjob in [] if found is None else [found, *_watched(cluster, name, found)]:
                status = KubeStatus.of(rayjob)
                if status != last:
                    yield status
                    last = status
                if status.ended or enough():
                    return
            if found is None or enough():
                return
        except LaunchError:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def delete(cluster: KubeRaySpec, name: str) -> bool:
    """Delete a RayJob, and with it its cluster; False if it was not there."""
    from kubernetes.client import ApiException

    with _plain_errors(cluster):
        try:
            _custom(cluster).delete_namespaced_custom_object(
                GROUP, VERSION, cluster.namespace, PLURAL, name, propagation_policy="Background"
            )
        except ApiException as error:
            if error.status == 404:
                return False
            raise
    return True


def submitter_log(cluster: KubeRaySpec, name: str) -> str:
    """What the run's submitter has printed: of a run that has left nothing in its storage."""
    from kubernetes.client import ApiException, CoreV1Api

    with _plain_errors(cluster):
        core = CoreV1Api(_client(cluster.context))
        pods = core.list_namespaced_pod(cluster.namespace, label_selector=f"job-name={name}").items
        texts = []
        for pod in pods or []:
            try:
                texts.append(core.read_namespaced_pod_log(pod.metadata.name, cluster.namespace))
            except ApiException as error:
                if error.status not in (400, 404):  # its container has not begun
                    raise
    return "".join(texts)


def _watched(
    cluster: KubeRaySpec, name: str, found: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Later versions of a RayJob, for some seconds. What ends the stream early is no error: who
    asks looks again.
    """
    from kubernetes.client import ApiException
    from kubernetes.watch import Watch
    from urllib3.exceptions import HTTPError

    try:
        stream = Watch().stream(
            _custom(cluster).list_namespaced_custom_object,
            GROUP,
            VERSION,
            cluster.namespace,
            PLURAL,
            field_selector=f"metadata.name={name}",
            resource_version=found["metadata"].get("resourceVersion"),
            timeout_seconds=WATCH_SECONDS,
        )
        for event in stream:
            if event["object"]["metadata"]["name"] != name:
                continue
            if event["type"] == "DELETED":
                return
            yield event["object"]
    except ApiException as error:
        if error.status == 410:  # the version is too old: look again
            return
        raise LaunchError(_reason(error)) from error
    except (HTTPError, OSError, ValueError) as error:  # ValueError: half a line of JSON
        raise LaunchError(f"the watch was cut off: {error}") from error


def _clear(cluster: KubeRaySpec, name: str) -> None:
    """Delete a RayJob that has ended, and wait until its name is free."""
    delete(cluster, name)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while find(cluster, name) is not None:
        if time.monotonic() > deadline:
            raise LaunchError(f"the RayJob {name} of an attempt before does not go away")
        time.sleep(POLL_SECONDS)


def _check_is_ours(existing: Mapping[str, Any], request: KubeRequest) -> None:
    theirs = existing["metadata"].get("annotations", {}).get(RUN_ANNOTATION)
    if theirs != request.run:
        what = f"a RayJob `{request.name}` is there already, and belongs to {theirs or 'others'}"
        raise UserError(Problem("--id", what, "take another id"))


def _create(cluster: KubeRaySpec, value: Mapping[str, Any]) -> dict[str, Any]:
    with _plain_errors(cluster):
        made: dict[str, Any] = _custom(cluster).create_namespaced_custom_object(
            GROUP, VERSION, cluster.namespace, PLURAL, dict(value), field_validation="Strict"
        )
    return made


def _create_config(cluster: KubeRaySpec, value: Mapping[str, Any]) -> None:
    from kubernetes.client import ApiException, CoreV1Api

    with _plain_errors(cluster):
        try:
            CoreV1Api(_client(cluster.context)).create_namespaced_config_map(
                cluster.namespace, value
            )
        except ApiException as error:
            if error.status != 409:  # of an attempt that was cut off
                raise


def _custom(cluster: KubeRaySpec) -> Any:
    from kubernetes.client import CustomObjectsApi

    return CustomObjectsApi(_client(cluster.context))


def _client(context: str | None) -> Any:
    """A client by the kubeconfig, else by the account of the pod that this runs in.

    Raises:
        LaunchError: there is neither, or the library is not installed.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise LaunchError("KubeRay needs the extra: pip install 'heliostat[k8s]'") from error
    configuration = client.Configuration()
    try:
        config.load_kube_config(context=context, client_configuration=configuration)
    except config.ConfigException as error:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            raise LaunchError(f"no Kubernetes configuration: {error}") from error
    configuration.retries = 3
    return client.ApiClient(configuration)


@contextmanager
def _plain_errors(cluster: KubeRaySpec) -> Iterator[None]:
    try:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError
    except ImportError:
        _client(cluster.context)  # says what is missing
        raise
    try:
        yield
    except ApiException as error:
        if error.status in (400, 409, 422):
            raise UserError(
                Problem("--to", f"the API server refuses it: {_reason(error)}")
            ) from None
        raise LaunchError(f"the Kubernetes cluster: {_reason(error)}") from error
    except (HTTPError, OSError) as error:
        raise LaunchError(f"the Kubernetes cluster does not answer: {error}") from error


def _reason(error: Any) -> str:
    """The API server's own sentence."""
    if error.status in (401, 403):
        what = "does not know us" if error.status == 401 else "does not allow it"
        return f"it {what} ({error.status})"
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
