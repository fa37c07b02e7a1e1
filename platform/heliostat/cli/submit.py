"""`heliostat submit JOB --to CLUSTER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import job_options, open_storage, read_job, read_site
from heliostat.errors import ClusterUnavailableError, PlanError, UnavailableError
from heliostat.plan.available import unavailable_parts
from heliostat.plan.checks import consistency_problems
from heliostat.spec.load import Job
from heliostat.storage.runs import Storage


@click.command("submit")
@job_options
@click.option("--to", "target", help="A cluster of the site file; default the job's `cluster`.")
@click.option("--id", "run_id", help="The run's id: the same id is the same run.")
@click.option("--wait", is_flag=True, help="Follow the run and return its exit status.")
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    target: str | None,
    run_id: str | None,
    wait: bool,
) -> None:
    """Send `heliostat run` to a cluster of the site file."""
    send(read_job(files, settings), "run", target, run_id, wait, as_json)


def _attempt(storage: Storage, reference: str) -> int:
    """How often the run has begun already."""
    name, _, run_id = reference.partition("/")
    folder = storage.run(name, run_id)
    if not (folder.path / "state.json").exists():
        return 0
    return int(folder.read_state().get("attempt", 0))


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def send(
    job: Job, verb: str, target: str | None, run_id: str | None, wait: bool, as_json: bool
) -> None:
    """Send a verb to a cluster; print what it is called there, and what to do next."""
    if problems := consistency_problems(job):
        raise PlanError(problems)
    if problems := unavailable_parts(job):
        raise UnavailableError(problems)
    from heliostat.launch.clusters import destination
    from heliostat.launch.sent import Sent, find_sent, recorded, remember
    from heliostat.launch.target import find_cluster
    from heliostat.launch.view import wait_for_close

    name = target or job.spec.cluster
    site = read_site()
    cluster = find_cluster(site, name)
    storage = Storage.open(str(open_storage(job.spec.storage).root))
    rendered = destination(cluster).render(job, run_id, verb)
    run = rendered.run.partition("/")[2]
    wait_for_close(storage, site, rendered.run, _note)
    sent = Sent(job.spec.name, run, name or cluster, "", verb, _attempt(storage, rendered.run))
    try:
        with recorded(storage, sent) as record:
            submission, is_new = rendered.send(_note, record)
    except ClusterUnavailableError:
        _note(f"the same command with `--id {run}` sends this very run again")
        raise
    sent = replace(sent, submission_id=submission)
    if not is_new and find_sent(storage, sent.reference) is None:  # maybe from another machine
        remember(storage, replace(sent, after_attempt=0))
    if as_json:
        print_json({"run": sent.reference, "submission_id": sent.submission_id, "new": is_new})
    else:
        print(sent.reference)
        place = f" --storage {storage.root}"
        for verb in ("status", "logs -f", "stop"):
            print(f"  heliostat {verb} {sent.reference}{place}", file=sys.stderr)
        if not is_new:
            _note(f"{sent.reference} was there already; nothing new was sent")
    if wait:
        from heliostat.cli.logs import show_logs

        show = partial(print, file=sys.stderr) if as_json else print
        show_logs(storage, sent.reference, follow=True, show=show)
