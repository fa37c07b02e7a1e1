"""Which pods of Kubernetes or nodes of Ray hold the workers of a job: a pure sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from heliostat.errors import Problem, UserError
from heliostat.plan.memory import format_bytes
from heliostat.spec.job import JobSpec
from heliostat.spec.kuberay import KubeRaySpec, WorkerGroup
from heliostat.spec.scale import ElasticWorkers


class Room(Protocol):
    """What a pod or a node has; `memory` in bytes."""

    @property
    def cpu(self) -> float:
        """CPUs."""

    @property
    def gpu(self) -> float:
        """GPUs."""

    @property
    def memory(self) -> int:
        """Bytes."""


@dataclass(frozen=True)
class Node:
    """A node of a running Ray cluster, with all that it has, free or not."""

    address: str
    cpu: float
    gpu: float
    memory: int


@dataclass(frozen=True)
class Placement:
    """Pods of one group: between `least` and `most` of them, `per_pod` workers in each."""

    group: WorkerGroup
    per_pod: int
    least: int
    most: int

    @property
    def is_elastic(self) -> bool:
        """Whether the number of pods may change while the job runs."""
        return self.least < self.most

    def price_per_hour(self, cluster: KubeRaySpec) -> float:
        """Of all pods and the head, at most."""
        return cluster.head.price_per_hour + self.most * self.group.price_per_hour

    def sentence(self, cluster: KubeRaySpec, hours: float | None) -> str:
        """The sum, as `plan` shows it; with what the pods cost in at most so many `hours`."""
        group = self.group
        pods = f"{self.least} to {self.most}" if self.is_elastic else f"{self.most}"
        kind = " spot" if group.spot else ""
        gpus = f", {group.gpu} GPU" if group.gpu else ""
        size = f"{group.cpu:g} CPU, {format_bytes(group.memory)}{gpus}"
        cost = _cost(self.price_per_hour(cluster), hours)
        return f"{pods}{kind} pods of `{group.name}` ({size}), {self.per_pod} workers each{cost}"


def place(spec: JobSpec, cluster: KubeRaySpec) -> Placement:
    """The first group whose pods hold the job's workers; those without GPUs first for a job that
    needs none. A sweep takes all pods of its group.

    Raises:
        UserError: no group does, with the sum for each.
    """
    needs_gpu = spec.scale.resources.gpu > 0
    groups = sorted(cluster.groups, key=lambda group: (group.gpu > 0) != needs_gpu)
    lacking = []
    for group in groups:
        per_pod, text = _workers_in(spec, group)
        workers = spec.scale.workers
        least, most = (
            (workers.min, workers.max)
            if isinstance(workers, ElasticWorkers)
            else (workers, workers)
        )
        room = per_pod * group.replicas
        if room >= least and per_pod:
            pods = [-(-count // per_pod) for count in (least, min(most, room))]
            if spec.tune is not None:
                pods = [group.replicas, group.replicas]
            return Placement(group, per_pod, *pods)
        lacking.append(f"`{group.name}`: {text}; {group.replicas} pods hold {room} of {least}")
    what = "no group of the site file holds them. " + ". ".join(lacking)
    raise UserError(Problem("scale.workers", what, "lower `scale`, or enlarge a group"))


def spread(spec: JobSpec, nodes: Sequence[Node], price_per_cpu_hour: float) -> str:
    """How many workers the nodes of a Ray cluster hold, the largest first, as `plan` shows it.

    Raises:
        UserError: too few, with the sum.
    """
    workers, scale = spec.scale.num_workers, spec.scale
    held = sorted(((_workers_in(spec, node)[0], node) for node in nodes), key=lambda pair: -pair[0])
    room = sum(count for count, _ in held)
    if room < scale.min_workers:
        sums = "; ".join(f"{node.address}: {_workers_in(spec, node)[1]}" for node in nodes)
        what = f"its nodes hold {room} of {scale.min_workers} workers: {sums}"
        raise UserError(Problem("scale.workers", what, "lower `scale`, or enlarge the cluster"))
    workers = min(workers, room)
    left, parts = workers, []
    for count, node in held:
        if (taken := min(count, left)) > 0:
            parts.append(f"{taken} on {node.address}")
            left -= taken
    noun = "a fold" if spec.most_folds_at_once > 1 else "in all"
    noun = "a trial" if spec.tune is not None else noun
    text = f"{workers} worker{'s'[: workers > 1]} {noun} = {' + '.join(parts)}"
    at_once = _at_once(spec, max(1, room // workers))
    if at_once > 1:
        text += f"; {at_once} at once"
    price = price_per_cpu_hour * workers * scale.resources.cpu * at_once
    return text + _cost(price, spec.limits.hours)


def _at_once(spec: JobSpec, room: int) -> int:
    """How many trainings are side by side where there is `room`."""
    if spec.tune is None:
        return min(room, spec.most_folds_at_once)
    return room if spec.tune.concurrency == "auto" else min(room, spec.tune.concurrency)


def _cost(price_per_hour: float, hours: float | None) -> str:
    if not price_per_hour:
        return ""
    whole = f", {price_per_hour * hours:,.2f} in `limits.hours`" if hours else ""
    return f"; at most {price_per_hour:,.2f} an hour{whole}"


def _workers_in(spec: JobSpec, group: Room) -> tuple[int, str]:
    fits = list(_fits(spec, group))
    text = ", ".join(_quotient(name, there, each) for name, there, each in fits)
    return min(int(there / each + 1e-9) for _, there, each in fits), text


def _quotient(name: str, there: float, each: float) -> str:
    if name == "memory":
        return f"{format_bytes(int(there))} / {format_bytes(int(each))}"
    return f"{there:g} {name} / {each:g}"


def _fits(spec: JobSpec, group: Room) -> Iterator[tuple[str, float, float]]:
    wanted = spec.scale.resources
    yield "CPU", group.cpu, wanted.cpu
    if wanted.gpu:
        yield "GPU", group.gpu, wanted.gpu
    if wanted.memory:
        yield "memory", group.memory, wanted.memory
