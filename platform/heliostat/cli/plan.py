"""`heliostat plan JOB`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, read_job
from heliostat.plan.plan import plan_job
from heliostat.plan.text import plan_text


@click.command("plan")
@job_options
def command(files: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Check everything that can be checked before a worker starts, and show the sums."""
    plan = plan_job(read_job(files, settings))
    if as_json:
        print_json(plan.to_json())
    else:
        print(plan_text(plan), end="")
