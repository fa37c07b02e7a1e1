"""A Kubernetes cluster of the site file: what its pods are, what they cost, who pays."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from heliostat.spec.base import Bytes, Spec

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
GroupName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")]
Cpus = Annotated[float, Field(gt=0)]


class HeadSpec(Spec):
    """The head's pod: Ray's own services, and the process that drives the run."""

    cpu: Cpus = 2.0
    memory: Bytes = 8 * 2**30
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    node_selector: dict[str, str] = {}


class WorkerGroup(Spec):
    """Pods of one kind: at most `replicas` of them a run. `spot` ones may be taken away."""

    name: GroupName
    replicas: Annotated[int, Field(gt=0)]
    cpu: Cpus
    memory: Bytes
    gpu: Annotated[int, Field(ge=0)] = 0
    spot: bool = False
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    node_selector: dict[str, str] = {}


class SecretKey(Spec):
    """A key of a Kubernetes Secret."""

    name: Label
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]


class KubeRaySpec(Spec):
    """Where RayJobs go, and how they are made.

    `secrets` says where the variables of a job's `secrets` come from; `storage_secret` holds the
    storage's own credentials as variables; `token_secret` has Ray's token under `auth_token`.
    `pod_patch` is merged into every pod, last: lists by name, containers (`ray-head`, `ray-worker`,
    `ray-job-submitter`) into the pod that has them.
    """

    image: Annotated[str, Field(min_length=1)]
    namespace: Label
    context: str | None = None
    service_account: Label | None = None
    submitter_service_account: Label | None = None
    queue: Label | None = None
    queue_priority: Label | None = None
    priority: Label | None = None
    ttl_minutes: Annotated[int, Field(ge=0)] = 60
    token_secret: Label = "heliostat-ray-token"
    storage_secret: Label | None = None
    secrets: dict[str, SecretKey] = {}
    head: HeadSpec = HeadSpec()
    groups: Annotated[tuple[WorkerGroup, ...], Field(strict=False, min_length=1)]
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pod_patch: dict[str, Any] = {}

    @model_validator(mode="after")
    def _distinct(self) -> KubeRaySpec:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError("two groups have the same name")
        if "head" in names:
            raise ValueError("a group is called `head`, which Kueue keeps for the head's pod")
        return self
