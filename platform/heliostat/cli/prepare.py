"""`heliostat prepare JOB`."""

from __future__ import annotations

import sys

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, read_job
from heliostat.plan.plan import plan_job
from heliostat.storage.runs import DEFAULT_STORAGE, Storage


@click.command("prepare")
@job_options
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else an embedded one.")
def command(
    files: tuple[str, ...], settings: tuple[str, ...], as_json: bool, address: str | None
) -> None:
    """Only the data phase: read the source once, and leave the prepared copy in storage."""
    plan = plan_job(read_job(files, settings))
    storage = Storage.open(plan.job.spec.storage or DEFAULT_STORAGE)
    from heliostat.data.prepare import is_prepared, prepare
    from heliostat.run.cluster import check_storage_is_shared, connected

    folder = storage.prepared / plan.prepared_digest
    reused = is_prepared(plan, storage.prepared)
    with connected(address) as cluster:
        check_storage_is_shared(storage.root)
        prepared = prepare(plan, storage.prepared, int(cluster.cpus), _show)
    if as_json:
        print_json({"folder": str(folder), "rows": prepared.num_rows, "reused": reused})
    else:
        print(folder)


def _show(done: int, total: int) -> None:
    print(f"prepared  {done:,} of {total:,} rows", file=sys.stderr)
