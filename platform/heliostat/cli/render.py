"""`heliostat render JOB --to CLUSTER`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, read_job, read_site


@click.command("render")
@job_options
@click.option("--to", "target", help="A cluster of the site file; default the job's `cluster`.")
@click.option("--id", "run_id", help="The run's id.")
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    target: str | None,
    run_id: str | None,
) -> None:
    """Print exactly what `submit` would send, and send nothing."""
    job = read_job(files, settings)
    from heliostat.launch.clusters import destination
    from heliostat.launch.target import find_cluster

    cluster = destination(find_cluster(read_site(), target or job.spec.cluster))
    print_json(cluster.render(job, run_id, "run").to_json())
