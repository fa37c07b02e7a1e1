"""`heliostat logs [-f] RUN`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import click

from heliostat.cli.options import open_storage, read_site, storage_option
from heliostat.errors import UnknownOutcomeError
from heliostat.storage.runs import Storage


@click.command("logs")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Until the run ends; returns its exit status.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as a JSON value.")
@storage_option
def command(run: str, follow: bool, as_json: bool, storage: str | None) -> None:
    """Print what a run said."""
    show_logs(open_storage(storage), run, follow, json_line if as_json else print)


def json_line(line: str) -> None:
    """Print a line as a JSON value of one line."""
    print(json.dumps({"line": line}, ensure_ascii=False))


def show_logs(storage: Storage, run: str, follow: bool, show: Callable[[str], None]) -> None:
    """Show lines; with `follow`, to the end, and raise what the run ended with."""
    from heliostat.launch.view import find_run

    view = find_run(storage, read_site(), run)
    try:
        for line in view.lines(follow):
            show(line)
            sys.stdout.flush()
    except BrokenPipeError:
        if not follow:
            raise
        what = "nobody reads any more; how the run ends is not known here"
        raise UnknownOutcomeError(f"{view.reference}: {what}") from None
    if follow:
        find_run(storage, read_site(), run).result()
