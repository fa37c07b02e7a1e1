"""`heliostat init SOURCE`."""

from __future__ import annotations

import sys

import click

from heliostat.catalog.detect import detect_catalog
from heliostat.catalog.draft import draft_job
from heliostat.cli.main import print_json


@click.command("init")
@click.argument("source")
@click.option("--target", help="The column to learn; default: the last one.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the text and the warnings inside JSON."
)
def command(source: str, target: str | None, as_json: bool) -> None:
    """Look at a data set and print a commented job file for it."""
    draft = draft_job(detect_catalog(source), target)
    for warning in draft.warnings:
        print(f"look at {warning}", file=sys.stderr)
    if as_json:
        print_json({"job": draft.text, "warnings": list(draft.warnings)})
    else:
        print(draft.text, end="")
