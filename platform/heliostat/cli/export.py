"""`heliostat export RUN --format FORMAT --out DEST`."""

from __future__ import annotations

from pathlib import Path

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.cli.scoring import model_folder


@click.command("export")
@click.argument("run")
@click.option(
    "--format", "format_", required=True, type=click.Choice(["huggingface"]),
    help="huggingface: a folder that `transformers` loads, of a model of kind gpt.",
)  # fmt: skip
@click.option("--out", "target", required=True, help="A new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(run: str, format_: str, target: str, as_json: bool, storage: str | None) -> None:
    """Write a run's model for elsewhere."""
    model = model_folder(open_storage(storage), run)
    from heliostat.train.export import export_huggingface

    export_huggingface(model, Path(target))
    if as_json:
        print_json({"out": target, "format": format_})
    else:
        print(target)
