"""Whether the workers of a job find room: on this machine, or on a cluster's nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from heliostat.errors import Problem
from heliostat.plan.memory import format_bytes, machine_memory_bytes
from heliostat.plan.plan import Plan

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
OTHER_GPUS = tuple(map(Path, ("/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/dev/dri/renderD128")))
REMEDY = "lower `scale.workers` or `scale.resources`, or use a larger cluster"
EXACT = 1e-9  # sums of fractions of a CPU


@dataclass(frozen=True)
class Node:
    """What trainings may use of a node; None: nobody can tell."""

    cpus: float
    gpus: float | None
    memory_bytes: float | None

    def holds(self, cpus: float, gpus: float, memory_bytes: float) -> float:
        """How many workers of this size fit."""
        pairs = ((self.cpus, cpus), (self.gpus, gpus), (self.memory_bytes, memory_bytes))
        fits = [has / needs for has, needs in pairs if needs and has is not None]
        return min((float(int(fit + EXACT)) for fit in fits), default=float("inf"))


def this_machine() -> Node:
    """What an embedded Ray may use here."""
    gpus: float | None = None
    if NVIDIA_GPUS.is_dir():
        gpus = len(list(NVIDIA_GPUS.iterdir()))
    elif not any(path.exists() for path in OTHER_GPUS):
        gpus = 0
    return Node(os.cpu_count() or 1, gpus, machine_memory_bytes())


def capacity_problems(
    plan: Plan, where: str, nodes: Sequence[Node], beside: float = 0
) -> list[Problem]:
    """Why the workers of a training can never be placed on `nodes`, all of them together `where`;
    `beside` is how many CPUs stream the data.
    """
    several = plan.job.spec.scale.min_workers > 1
    return [
        plan.job.problem("scale.workers" if several else f"scale.resources.{key}", sentence, REMEDY)
        for key, sentence in _lacking(plan, where, nodes, beside)
    ]


def lacking_here(plan: Plan) -> list[str]:
    """What the workers need and this machine lacks; empty where they fit."""
    return [sentence for _, sentence in _lacking(plan, "this machine", [this_machine()], 0)]


def _lacking(plan: Plan, where: str, nodes: Sequence[Node], beside: float) -> list[tuple[str, str]]:
    sums = list(_sums(plan, nodes, beside)) or list(_parts(plan, nodes))
    return [(key, f"{needs}, {where} has {has}") for key, needs, has in sums]


def _sums(plan: Plan, nodes: Sequence[Node], beside: float) -> Iterator[tuple[str, str, str]]:
    scale = plan.job.spec.scale
    each, workers = scale.resources, scale.min_workers
    noun = f"{workers} worker{'' if workers == 1 else 's'}"
    cpus = sum(node.cpus for node in nodes)
    if (needed := workers * each.cpu + beside) > cpus + EXACT:
        data = f" + {beside:g} to stream the data" if beside else ""
        yield "cpu", f"{noun} x {each.cpu:g}{data} = {needed:g} CPUs", f"{cpus:g}"
    gpus = _sum([node.gpus for node in nodes])
    if gpus is not None and workers * each.gpu > gpus + EXACT:
        yield "gpu", f"{noun} x {each.gpu:g} = {workers * each.gpu:g} GPUs", f"{gpus:g}"
    memory = _sum([node.memory_bytes for node in nodes])
    if memory is not None and each.memory and workers * each.memory > memory:
        needs = f"{noun} x {format_bytes(each.memory)} = {format_bytes(workers * each.memory)}"
        yield "memory", f"{needs} of memory", format_bytes(memory)


def _parts(plan: Plan, nodes: Sequence[Node]) -> Iterator[tuple[str, str, str]]:
    """Where the sums fit: whether each worker fits on a node of its own."""
    scale = plan.job.spec.scale
    each, workers = scale.resources, scale.min_workers
    fits = sum(node.holds(each.cpu, each.gpu, each.memory or 0) for node in nodes)
    if fits < workers:
        parts = [f"{each.cpu:g} CPUs"]
        parts += [f"{each.gpu:g} GPUs"] if each.gpu else []
        parts += [format_bytes(each.memory)] if each.memory else []
        size = " and ".join(parts)
        yield "cpu", f"{workers} workers of {size} each", f"nodes that hold {fits:g} of them"


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
