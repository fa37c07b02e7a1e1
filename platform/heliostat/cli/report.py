"""`heliostat report RUN`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.errors import Problem, UnavailableError


@click.command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(runs: tuple[str, ...], as_json: bool, storage: str | None) -> None:
    """Write a run's page again, and print where it is."""
    if len(runs) > 1:
        raise UnavailableError(Problem("report", "comparing several runs is not available yet"))
    from heliostat.report.page import write_report

    page = write_report(open_storage(storage).find(runs[0]))
    if as_json:
        print_json({"report": str(page)})
    else:
        print(page)
