"""heliostat: distributed training and hyper-parameter tuning on Ray, from one job file.

Importing this package loads next to nothing, since every worker process does it; a public name
loads its module when it is first used. None of them loads Ray or torch: `heliostat.run.run_job`
does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.errors import HeliostatError
    from heliostat.plan.plan import Plan, plan_job
    from heliostat.report.result import Result
    from heliostat.spec.job import JobSpec
    from heliostat.spec.load import load_job

__version__ = "0.1.0"
__all__ = ["HeliostatError", "JobSpec", "Plan", "Result", "__version__", "load_job", "plan_job"]

_HOMES = {
    "HeliostatError": "heliostat.errors",
    "JobSpec": "heliostat.spec.job",
    "Plan": "heliostat.plan.plan",
    "Result": "heliostat.report.result",
    "load_job": "heliostat.spec.load",
    "plan_job": "heliostat.plan.plan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `heliostat` has no attribute `{name}`")
    return getattr(importlib.import_module(_HOMES[name]), name)
