"""`heliostat report RUN`."""

from __future__ import annotations

import click

from heliostat.cli.options import open_storage, storage_option
from heliostat.errors import Problem, UnavailableError


@click.command("report")
@click.argument("runs", nargs=-1, required=True)
@storage_option
def command(runs: tuple[str, ...], storage: str | None) -> None:
    """Write a run's page again, and print where it is."""
    if len(runs) > 1:
        raise UnavailableError(Problem("report", "comparing several runs is not available yet"))
    from heliostat.report.page import write_report

    print(write_report(open_storage(storage).find(runs[0])))
