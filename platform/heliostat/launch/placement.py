"""Which pods of a Kubernetes cluster hold a job's workers: a pure sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from heliostat.errors import Problem, UserError
from heliostat.plan.memory import format_bytes
from heliostat.spec.job import JobSpec
from heliostat.spec.kuberay import KubeRaySpec, WorkerGroup
from heliostat.spec.scale import ElasticWorkers


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

    def sentence(self, cluster: KubeRaySpec) -> str:
        """The sum, as `plan` shows it."""
        group = self.group
        pods = f"{self.least} to {self.most}" if self.is_elastic else f"{self.most}"
        kind = " spot" if group.spot else ""
        gpus = f", {group.gpu} GPU" if group.gpu else ""
        size = f"{group.cpu:g} CPU, {format_bytes(group.memory)}{gpus}"
        price = self.price_per_hour(cluster)
        cost = f"; at most {price:,.2f} an hour" if price else ""
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
        per_pod, text = _workers_per_pod(spec, group)
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


def _workers_per_pod(spec: JobSpec, group: WorkerGroup) -> tuple[int, str]:
    fits = list(_fits(spec, group))
    text = ", ".join(f"{there:g} {name} / {each:g}" for name, there, each in fits)
    return min(int(there / each + 1e-9) for _, there, each in fits), text


def _fits(spec: JobSpec, group: WorkerGroup) -> Iterator[tuple[str, float, float]]:
    wanted = spec.scale.resources
    yield "CPU", group.cpu, wanted.cpu
    if wanted.gpu:
        yield "GPU", group.gpu, wanted.gpu
    if wanted.memory:
        yield "bytes", group.memory, wanted.memory
