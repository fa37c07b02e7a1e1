"""Run one job in this process's Ray."""

from heliostat.run.job import run_job

__all__ = ["run_job"]
