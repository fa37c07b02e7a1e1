"""`heliostat prepare JOB`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, read_job
from heliostat.cli.waiting import cluster_at
from heliostat.errors import Problem, UserError
from heliostat.plan.plan import plan_job
from heliostat.processes import adopt_orphans
from heliostat.spec.load import Job
from heliostat.storage.objects import StorePath
from heliostat.storage.runs import Storage, storage_of


@click.command("prepare")
@job_options
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else an embedded one.")
@click.option("--to", "target", help="Send it to a cluster of the site file instead.")
@click.option("--id", "run_id", help="With --to: its id there; the same id is the same step.")
@click.option("--wait", is_flag=True, help="With --to: follow it, return its exit status.")
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    address: str | None,
    target: str | None,
    run_id: str | None,
    wait: bool,
) -> None:
    """Only the data phase: read the source once, and leave the prepared copy in storage."""
    job = read_job(files, settings)
    if target is not None:
        from heliostat.cli.submit import send

        send(job, "prepare", target, run_id, wait, as_json)
        return
    if run_id is not None or wait:
        raise UserError(Problem("--id, --wait", "mean nothing without `--to`"))
    adopt_orphans()
    folder, num_rows, reused = _prepare(job, address)
    if as_json:
        print_json({"folder": str(folder), "rows": num_rows, "reused": reused})
    else:
        print(folder)


def _prepare(job: Job, address: str | None) -> tuple[StorePath, int, bool]:
    """The copy's folder, its rows, and whether it was there."""
    plan = plan_job(job)
    storage = Storage.open(storage_of(plan.job))
    from heliostat.data.prepare import is_prepared, prepare
    from heliostat.data.text import keep_tokenizers
    from heliostat.run.cluster import check_storage_is_shared

    folder = storage.prepared / plan.prepared_digest
    plan = replace(plan, columns=keep_tokenizers(plan.columns, storage.prepared))
    reused = is_prepared(plan, storage.prepared)
    with cluster_at(address) as cluster:
        check_storage_is_shared(storage.root)
        prepared = prepare(plan, storage.prepared, int(cluster.cpus), _show)
    return folder, prepared.num_rows, reused


def _show(done: int, total: int) -> None:
    print(f"prepared  {done:,} of {total:,} rows", file=sys.stderr)
