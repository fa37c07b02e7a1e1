"""What the run will need, begun early: imports while Ray starts, copies while data is split."""

from __future__ import annotations

import importlib
import threading

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from heliostat.spec.job import JobSpec
from heliostat.storage.cache import local_copy
from heliostat.storage.objects import ObjectPath, StorePath, as_path


def imports_ahead(spec: JobSpec, embedded: bool) -> threading.Thread:
    """A thread that imports the heavy modules of a job, in the order of their use. Join it before
    Ray is shut down: what it loads touches Ray.
    """
    modules = ["heliostat.report.page"]
    if spec.tune is not None:
        modules.insert(0, "heliostat.run.sweep")
    elif spec.scale.num_workers > 1 and not embedded:
        modules.insert(0, "heliostat.train.ray_train")
    return threading.Thread(target=_import, args=(modules,), daemon=True, name="imports-ahead")


def _import(modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)


def fetch_ahead(folder: StorePath) -> None:
    """Begin to copy a prepared copy from an object store to the other nodes, while this process
    splits the rows and fits their transforms. A node that fails to is asked again by its worker.
    """
    if not isinstance(folder, ObjectPath):
        return
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != here:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            _fetch.options(scheduling_strategy=there).remote(str(folder))


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _fetch(folder: str) -> None:
    local_copy(as_path(folder))
