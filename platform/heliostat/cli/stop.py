"""`heliostat stop RUN`."""

from __future__ import annotations

import click

from heliostat.cli.options import open_storage, read_site, storage_option


@click.command("stop")
@click.argument("run")
@storage_option
def command(run: str, storage: str | None) -> None:
    """Ask a run to commit a checkpoint and stop."""
    from heliostat.launch.view import find_run

    print(find_run(open_storage(storage), read_site(), run).stop())
