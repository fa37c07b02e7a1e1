"""`heliostat plan JOB`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, open_storage, read_job, read_site
from heliostat.data.inspect import inspected
from heliostat.errors import LaunchError
from heliostat.plan.capacity import lacking_here
from heliostat.plan.plan import Plan, plan_job
from heliostat.plan.text import plan_text
from heliostat.report.console import print_text
from heliostat.spec.load import Job


@click.command("plan")
@job_options
@click.option("--diff", "run", metavar="RUN", help="List what differs from a run instead.")
@click.option("--to", "target", help="A cluster of the site file: also where the workers go.")
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    run: str | None,
    target: str | None,
) -> None:
    """Check everything that can be checked before a worker starts, and show the sums."""
    job = read_job(files, settings)
    plan = inspected(plan_job(job))
    placed = _placed(job, target) if target is not None else ""
    missing = [] if target is not None else lacking_here(plan)
    if run is not None:
        lines = _differences(plan, run)
        if as_json:
            print_json(lines)
        else:
            print("\n".join(lines) or f"nothing differs from {run}")
    elif as_json:
        lacking = {"machine": missing} if missing else {}
        print_json(plan.to_json() | ({"placement": placed} if placed else {}) | lacking)
    else:
        here = "".join(f"machine   {sentence}; `run` needs a cluster\n" for sentence in missing)
        print_text(plan_text(plan) + here + (f"placement {placed}\n" if placed else ""))


def _placed(job: Job, target: str) -> str:
    from heliostat.launch.clusters import destination
    from heliostat.launch.nodes import nodes_of
    from heliostat.launch.placement import place, spread
    from heliostat.launch.target import find_cluster
    from heliostat.spec.site import AddressCluster

    cluster = find_cluster(read_site(), target)
    destination(cluster).render(job, None, "run")  # what `submit` would refuse is refused now
    if isinstance(cluster, AddressCluster):
        try:
            nodes = nodes_of(cluster)
        except LaunchError as error:
            return f"unknown: {error}; the room of {cluster.address} is checked when the run begins"
        return spread(job.spec, nodes, cluster.price_per_hour)
    return place(job.spec, cluster.kuberay).sentence(cluster.kuberay, job.spec.limits.hours)


def _differences(plan: Plan, run: str) -> list[str]:
    from heliostat.plan.diff import diff_lines
    from heliostat.storage.files import read_json, understood
    from heliostat.storage.runs import IDENTITY, storage_of

    folder = open_storage(storage_of(plan.job)).find(run).path
    with understood(folder / IDENTITY):
        job = read_json(folder / IDENTITY)["job"]
        return list(diff_lines(plan, job, read_json(folder / "plan.json")))
