"""`heliostat run JOB`."""

from __future__ import annotations

from dataclasses import asdict

import click

from heliostat.cli.main import end_process, print_json
from heliostat.cli.options import job_options, read_job
from heliostat.signals import Signals


@click.command("run")
@job_options
@click.option("--id", "run_id", help="The run's id: the same id is the same run.")
@click.option(
    "--resume", is_flag=False, flag_value="", default=None, metavar="[RUN]",
    help="Continue a run; without a name, the latest.",
)  # fmt: skip
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else an embedded one.")
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    run_id: str | None,
    resume: str | None,
    address: str | None,
) -> None:
    """Run a job to its end in this process's Ray."""
    with Signals(end_process).caught() as signals:
        job = read_job(files, settings)
        from heliostat.run import run_job  # loads Ray: only once the job file is known to be right

        result = run_job(job, run_id=run_id, resume=resume, address=address, signals=signals)
    if as_json:
        print_json(asdict(result))
    else:
        metric = result.objective["metric"]
        print(f"{result.run}  {metric} {result.score}")
