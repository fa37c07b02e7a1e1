"""`heliostat plan JOB`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, open_storage, read_job
from heliostat.plan.plan import Plan, plan_job
from heliostat.plan.text import plan_text


@click.command("plan")
@job_options
@click.option("--diff", "run", metavar="RUN", help="List what differs from a run instead.")
def command(
    files: tuple[str, ...], settings: tuple[str, ...], as_json: bool, run: str | None
) -> None:
    """Check everything that can be checked before a worker starts, and show the sums."""
    plan = plan_job(read_job(files, settings))
    if run is not None:
        lines = _differences(plan, run)
        if as_json:
            print_json(lines)
        else:
            print("\n".join(lines) or f"nothing differs from {run}")
    elif as_json:
        print_json(plan.to_json())
    else:
        print(plan_text(plan), end="")


def _differences(plan: Plan, run: str) -> list[str]:
    from heliostat.plan.diff import diff_lines
    from heliostat.storage.files import read_json
    from heliostat.storage.runs import IDENTITY

    folder = open_storage(plan.job.spec.storage).find(run).path
    job = read_json(folder / IDENTITY)["job"]
    return list(diff_lines(plan, job, read_json(folder / "plan.json")))
