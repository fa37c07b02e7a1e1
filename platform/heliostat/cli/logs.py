"""`heliostat logs [-f] RUN`."""

from __future__ import annotations

import click

from heliostat.cli.options import open_storage, read_site, storage_option
from heliostat.storage.runs import Storage


@click.command("logs")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Until the run ends; returns its exit status.")
@storage_option
def command(run: str, follow: bool, storage: str | None) -> None:
    """Print what a run said."""
    show_logs(open_storage(storage), run, follow)


def show_logs(storage: Storage, run: str, follow: bool) -> None:
    """Print lines; with `follow`, to the end, and raise what the run ended with."""
    from heliostat.launch.view import find_run

    view = find_run(storage, read_site(), run)
    for line in view.lines(follow):
        print(line, flush=True)
    if follow:
        find_run(storage, read_site(), run).result()
