"""`heliostat promote RUN MODEL@ALIAS [--if-better]`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.storage.promoted import parse_name


@click.command("promote")
@click.argument("run")
@click.argument("name", metavar="MODEL@ALIAS")
@click.option(
    "--if-better", is_flag=True,
    help="Only where the objective on validation beats that of the run which has the name.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(run: str, name: str, if_better: bool, as_json: bool, storage: str | None) -> None:
    """Give a run's model a name: MODEL@ALIAS then stands for the run."""
    parse_name(name)
    place = open_storage(storage)
    folder = place.find_model(run)
    from heliostat.run.promote import promote

    promotion = promote(place, folder, name, if_better)
    if as_json:
        print_json({"promoted": promotion.promoted, "reason": promotion.reason})
    else:
        print(promotion.reason)
