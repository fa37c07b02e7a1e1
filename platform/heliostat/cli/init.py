"""`heliostat init SOURCE`."""

from __future__ import annotations

import click

from heliostat.catalog.catalog import read_catalog
from heliostat.catalog.draft import draft_job
from heliostat.cli.main import print_json


@click.command("init")
@click.argument("source")
@click.option("--target", help="The column to learn; default: the last one.")
@click.option("--json", "as_json", is_flag=True, help="Print the text inside JSON.")
def command(source: str, target: str | None, as_json: bool) -> None:
    """Look at a data set and print a commented job file for it."""
    text = draft_job(read_catalog(source), target)
    if as_json:
        print_json({"job": text})
    else:
        print(text, end="")
