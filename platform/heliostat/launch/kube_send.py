"""A run's objects on their way to a Kubernetes cluster: each made once, none left that can never
start. The ConfigMap with the job file comes first, and then belongs to the RayJob.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from heliostat.errors import ClusterUnavailableError, LaunchError, Problem, UserError
from heliostat.launch.kube import KubeStatus, delete, find
from heliostat.launch.kube_client import api_client, body_of, if_there
from heliostat.launch.rayjob import GROUP, JOB_FILE, PLURAL, RUN_ANNOTATION, VERSION, KubeRequest
from heliostat.plan.diff import differences
from heliostat.spec.kuberay import KubeRaySpec

MERGE_PATCH = "application/merge-patch+json"
GONE_SECONDS, POLL_SECONDS = 120.0, 1.0
Tell = Callable[[str], None]


def submit(request: KubeRequest, cluster: KubeRaySpec, tell: Tell, record: Tell) -> bool:
    """Make what is not there yet; False if the cluster already has this very run. One that has
    ended without success is made again, and goes on where it was. Before anything is made, `record`
    is called with its name; `tell` with what the user should know.

    Raises:
        UserError: the run is there with another job file, or its name is taken.
        ClusterRefusedError: the API server does not take an object; its reason.
        ClusterUnavailableError: it may take it later; what was made already is used then.
    """
    existing = _existing(request, cluster, tell)
    if existing is not None:
        try:
            _hold_config(request, cluster, existing, tell)
        except LaunchError as error:
            tell(f"whether its job file is the same cannot be seen: {error}")
        for line in _differing_pods(existing, request):
            tell(f"its pods were asked for otherwise, and stay as they are: {line}")
        return False
    record(request.name)
    _hold_config(request, cluster, None, tell)
    made = _create(cluster, request.rayjob)
    try:
        owned = _patch_config(cluster, request.name, {"metadata": _owned_by(made)})
        if owned is None:  # somebody has deleted it
            _hold_config(request, cluster, made, tell)
    except LaunchError as error:  # the run is there, and is not taken back for this
        tell(f"the ConfigMap {request.name} will outlive its RayJob: {error}")
    return True


def _existing(request: KubeRequest, cluster: KubeRaySpec, tell: Tell) -> dict[str, Any] | None:
    """The RayJob of this very run, if it goes on or has succeeded. One that has ended otherwise is
    deleted, and one that is being deleted is waited for.
    """
    waiting = _Waiting(f"the RayJob {request.name}", tell)
    while (found := find(cluster, request.name)) is not None:
        _check_is_ours(found, request)
        if not found["metadata"].get("deletionTimestamp"):
            status = KubeStatus.of(found)
            if not status.ended or status.state == "SUCCEEDED":
                return found
            _tell_changes(request, cluster, tell)
            delete(cluster, request.name)
        waiting.turn(found)
    return None


def _hold_config(
    request: KubeRequest, cluster: KubeRaySpec, owner: Mapping[str, Any] | None, tell: Tell
) -> None:
    """Make the ConfigMap, or take the one that is there: of an attempt that was cut off, or of
    `owner`, the RayJob that has it already. One that goes with another RayJob is waited for, since
    it would be gone under the new run.
    """
    wanted = json.loads(json.dumps(request.config))
    metadata = wanted["metadata"] | ({} if owner is None else _owned_by(owner))
    waiting = _Waiting(f"the ConfigMap {request.name}", tell)
    while not _create_config(cluster, wanted | {"metadata": metadata}):
        # An empty patch changes nothing, and shows it to who may not `get` it.
        found = _patch_config(cluster, request.name, {})
        if found is not None:
            _check_is_ours(found, request)
            if owner is not None:
                _check_same_job(found, request)
            if _may_be_taken(found, owner):
                version = {"resourceVersion": found["metadata"]["resourceVersion"]}
                _patch_config(cluster, request.name, wanted | {"metadata": metadata | version})
                return
        waiting.turn(found)


def _may_be_taken(config: Mapping[str, Any], owner: Mapping[str, Any] | None) -> bool:
    """Whether it stays: it is not being deleted, and has no other owner."""
    metadata = config["metadata"]
    owners = {reference["uid"] for reference in metadata.get("ownerReferences") or []}
    ours = set() if owner is None else {owner["metadata"]["uid"]}
    return owners <= ours and not metadata.get("deletionTimestamp")


class _Waiting:
    """Waits for an object of an earlier attempt to go, and says so if it does not at once."""

    def __init__(self, what: str, tell: Tell) -> None:
        self.what, self.tell = f"{what} of an earlier attempt", tell
        self.num_turns, self.deadline = 0, time.monotonic() + GONE_SECONDS

    def turn(self, found: Mapping[str, Any] | None) -> None:
        """A little, for what was `found`.

        Raises:
            ClusterUnavailableError: it has been too long.
        """
        self.num_turns += 1
        if self.num_turns == 1:
            return
        if self.num_turns == 2:
            self.tell(f"waiting for {self.what} to go")
        if time.monotonic() > self.deadline:
            finalizers = (found or {}).get("metadata", {}).get("finalizers") or []
            what = f"{self.what} did not go within {GONE_SECONDS:.0f} seconds; it waits for "
            raise ClusterUnavailableError(what + (", ".join(finalizers) or "the garbage collector"))
        time.sleep(POLL_SECONDS)


def _check_is_ours(existing: Mapping[str, Any], request: KubeRequest) -> None:
    theirs = (existing["metadata"].get("annotations") or {}).get(RUN_ANNOTATION)
    if theirs != request.run:
        kind = existing.get("kind", "object")
        what = f"a {kind} `{request.name}` is there already, and belongs to {theirs or 'others'}"
        raise UserError(Problem("--id", what, "take another id"))


def _check_same_job(config: Mapping[str, Any], request: KubeRequest) -> None:
    """The same id is the same run: it does not get another job on the way."""
    if changes := _changes(config, request):
        what = f"{request.run} is there already, with another job file: {'; '.join(changes)}"
        raise UserError(Problem("--id", what, "take another id, or stop that run first"))


def _tell_changes(request: KubeRequest, cluster: KubeRaySpec, tell: Tell) -> None:
    """What a run that goes on has in its job file that it had not before."""
    try:
        changes = _changes(_patch_config(cluster, request.name, {}), request)
    except LaunchError as error:
        tell(f"whether its job file is the same cannot be seen: {error}")
        return
    for change in changes:
        tell(f"{request.run} goes on with another job file: {change}")


def _changes(config: Mapping[str, Any] | None, request: KubeRequest) -> list[str]:
    """How the job file that is sent differs from the one that is there, if one is."""
    try:
        there = json.loads((config or {})["data"][JOB_FILE])
    except (KeyError, TypeError, ValueError):
        return []
    sent = json.loads(request.config["data"][JOB_FILE])
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in differences(there, sent)]


def _differing_pods(existing: Mapping[str, Any], request: KubeRequest) -> Iterator[str]:
    for key, there, wanted in _unlike(existing["spec"], request.rayjob["spec"], ""):
        yield f"{key}: {there!r} -> {wanted!r}"


def _unlike(there: Any, sent: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """(place, what is there, what is sent) of each sent leaf. The API server and other controllers
    add to what they were sent; that is no difference.
    """
    if isinstance(sent, Mapping) and isinstance(there, Mapping):
        for key, value in sent.items():
            yield from _unlike(there.get(key), value, f"{place}.{key}" if place else key)
    elif isinstance(sent, (list, tuple)) and isinstance(there, list) and len(there) >= len(sent):
        for number, value in enumerate(sent):
            yield from _unlike(there[number], value, f"{place}[{number}]")
    elif there != sent and not (there is None and not sent):  # what is empty may be left out
        yield place, there, sent


def _owned_by(rayjob: Mapping[str, Any]) -> dict[str, Any]:
    owner = {
        "apiVersion": rayjob["apiVersion"],
        "kind": rayjob["kind"],
        "name": rayjob["metadata"]["name"],
        "uid": rayjob["metadata"]["uid"],
    }
    return {"ownerReferences": [owner]}


def _create(cluster: KubeRaySpec, value: Mapping[str, Any]) -> dict[str, Any]:
    with api_client(cluster) as client:
        from kubernetes.client import CustomObjectsApi

        made: dict[str, Any] = CustomObjectsApi(client).create_namespaced_custom_object(
            GROUP, VERSION, cluster.namespace, PLURAL, dict(value), field_validation="Strict"
        )
    return made


def _create_config(cluster: KubeRaySpec, value: Mapping[str, Any]) -> bool:
    """Make a ConfigMap; False if there is one."""
    with api_client(cluster) as client:
        from kubernetes.client import ApiException, CoreV1Api

        try:
            call = CoreV1Api(client).create_namespaced_config_map
            body_of(client, call(cluster.namespace, dict(value), _preload_content=False))
        except ApiException as error:
            if error.status == 409 and "already exists" in (error.body or ""):
                return False
            raise
    return True


def _patch_config(
    cluster: KubeRaySpec, name: str, patch: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Change a ConfigMap, and how it is then; None if there is none."""
    with api_client(cluster) as client:
        from kubernetes.client import CoreV1Api

        call = CoreV1Api(client).patch_namespaced_config_map

        def patched() -> Any:
            response = call(
                name,
                cluster.namespace,
                dict(patch),
                _content_type=MERGE_PATCH,
                _preload_content=False,
            )
            return json.loads(body_of(client, response))

        changed: dict[str, Any] | None = if_there(name, patched)
    return changed
