"""`heliostat run JOB`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from heliostat.cli.main import SIGNALS, print_json
from heliostat.cli.options import (
    job_options,
    open_storage,
    read_job,
    storage_option,
    storage_words,
)
from heliostat.cli.stored import run_to_resume, stored_job
from heliostat.processes import adopt_orphans
from heliostat.report.console import Console
from heliostat.report.lines import command_of
from heliostat.report.live import Activity
from heliostat.report.result import Result
from heliostat.spec.load import Job
from heliostat.storage.runs import storage_of


@click.command("run")
@partial(job_options, required=False)
@storage_option
@click.option("--id", "run_id", help="The run's id: the same id is the same run.")
@click.option(
    "--resume", is_flag=False, flag_value="", default=None, metavar="[RUN]",
    help="Continue a run; without a name, the latest. Without JOB, by its stored job file.",
)  # fmt: skip
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else an embedded one.")
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    run_id: str | None,
    resume: str | None,
    address: str | None,
    storage: str | None,
) -> None:
    """Run a job to its end in this process's Ray."""
    adopt_orphans()
    signals, console = click.get_current_context().meta[SIGNALS], Console()
    job, resume = _job(files, settings, resume, storage)
    with console.resting():
        console.show(Activity("loading Ray", since=time.monotonic()))
        from heliostat.run import run_job  # loads Ray: only once the job file is known to be right

        result = run_job(
            job, run_id=run_id, resume=resume, address=address, console=console, signals=signals
        )
    if as_json:
        print_json(asdict(result))
    else:
        print(f"{result.run}  {result.headline}", flush=True)
    console.log = None  # the run's, which has ended
    console.line("next")
    for command in next_commands(result, storage_words(storage_of(job))):
        console.command(command)


def next_commands(result: Result, storage: Sequence[str]) -> Iterator[str]:
    """What is done with a finished run; capitals are for a person to fill in."""
    yield command_of("report", result.run, *storage)
    out = f"{result.name}-predictions"
    yield command_of("predict", result.run, "--data", "SOURCE", "--out", out, *storage)
    alias = f"{result.name}@production"
    yield command_of("promote", result.run, alias, "--if-better", *storage)


def _job(
    files: tuple[str, ...], settings: tuple[str, ...], resume: str | None, storage: str | None
) -> tuple[Job, str | None]:
    """The job, and which run it is to continue."""
    if not files and resume and Path(resume).is_file():  # `run --resume job.yaml`
        files, resume = (resume,), ""
    if files:
        job = read_job(files, settings)
        place = {} if storage is None else {"storage": str(open_storage(storage).root)}
        return job.replace(place), resume
    if resume is None:
        raise click.UsageError("Missing argument 'JOB...'.")
    folder = run_to_resume(resume, storage)
    return stored_job(folder, settings), folder.reference
