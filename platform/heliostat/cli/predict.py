"""`heliostat predict RUN --data SOURCE --out DEST`."""

from __future__ import annotations

import sys

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.cli.scoring import model_folder, scoring_tasks, show_progress, tell_shares
from heliostat.storage.objects import as_path


@click.command("predict")
@click.argument("run")
@click.option("--data", "source", required=True, help="A file, folder or glob, as in a job file.")
@click.option("--out", "target", required=True, help="A new folder for the predictions.")
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else none for small data.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(
    run: str, source: str, target: str, address: str | None, as_json: bool, storage: str | None
) -> None:
    """Write predictions for every row of a source: in this process if it is small (under 1 GiB)
    and no cluster is named, else by Ray Data, with the same result to the bit.
    """
    model = model_folder(open_storage(storage), run)
    from heliostat.train.predict import copy_notes, open_prediction, predict

    scoring, folder = open_prediction(model, source, as_path(target))
    for note in copy_notes(scoring.catalog):
        print(note, file=sys.stderr)
    with scoring_tasks(address, scoring.catalog.num_bytes, folder.parent) as num_tasks:
        counts, found = predict(scoring, folder, num_tasks, show_progress)
    values = tell_shares(scoring.trained, found)
    if as_json:
        print_json(counts | {"out": target} | values)
    else:
        print(f"{counts['rows']:,} rows in {target}")
    if counts["without_prediction"]:
        print(f"{counts['without_prediction']:,} of them without a prediction", file=sys.stderr)
