"""heliostat: distributed training and hyper-parameter tuning on Ray, from one job file.

Importing this package loads neither Ray nor torch; `heliostat.run.run_job` does.
"""

from heliostat.errors import HeliostatError
from heliostat.plan.plan import Plan, plan_job
from heliostat.report.result import Result
from heliostat.spec.job import JobSpec
from heliostat.spec.load import load_job

__version__ = "0.1.0"
__all__ = ["HeliostatError", "JobSpec", "Plan", "Result", "__version__", "load_job", "plan_job"]
