"""`heliostat schema`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.spec.schema import job_schema, site_schema


@click.command("schema")
@click.option("--site", is_flag=True, help="The site file's schema instead.")
@click.option("--json", "as_json", is_flag=True, help="Always JSON.")
def command(site: bool, as_json: bool) -> None:
    """Print the JSON Schema of the job file, for editors."""
    print_json(site_schema() if site else job_schema())
