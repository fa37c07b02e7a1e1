"""`heliostat stop RUN`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, read_site, storage_option


@click.command("stop")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(run: str, as_json: bool, storage: str | None) -> None:
    """Ask a run to commit a checkpoint and stop."""
    from heliostat.launch.view import find_run

    told = find_run(open_storage(storage), read_site(), run).stop()
    if as_json:
        print_json({"run": run, "message": told})
    else:
        print(told)
