"""Import in a thread what the run will need, while this process waits for Ray to start."""

from __future__ import annotations

import importlib
import threading

from heliostat.spec.job import JobSpec


def import_ahead(spec: JobSpec) -> threading.Thread:
    """Begin to import the heavy modules of a job, in the order of their use. Join the thread
    before Ray is shut down: what it loads touches Ray.
    """
    modules = ["heliostat.report.page", "tensorboardX"]
    if spec.tune is not None:
        modules.insert(0, "heliostat.run.sweep")
    elif spec.scale.num_workers > 1:
        modules.insert(0, "heliostat.train.ray_train")
    thread = threading.Thread(target=_import, args=(modules,), daemon=True, name="import-ahead")
    thread.start()
    return thread


def _import(modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
