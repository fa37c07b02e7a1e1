"""`heliostat predict RUN --data SOURCE --out DEST`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.storage.objects import StorePath, as_path
from heliostat.storage.runs import Storage


@click.command("predict")
@click.argument("run")
@click.option("--data", "source", required=True, help="Parquet: a file, folder or glob.")
@click.option("--out", "target", required=True, help="A new folder for the predictions.")
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else an embedded one.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(
    run: str, source: str, target: str, address: str | None, as_json: bool, storage: str | None
) -> None:
    """Write predictions for every row of a source, by Ray Data."""
    model = model_folder(open_storage(storage), run)
    from heliostat.run.cluster import connected
    from heliostat.train.predict import predict

    with connected(address) as cluster:
        counts = predict(model, source, as_path(target), int(cluster.cpus), show_progress)
    if as_json:
        print_json(counts | {"out": target})
    else:
        print(f"{counts['rows']:,} rows in {target}")
        if counts["without_prediction"]:
            print(f"{counts['without_prediction']:,} of them without a prediction", file=sys.stderr)


def model_folder(storage: Storage, run: str) -> StorePath:
    """The model of a run, or a model folder given by its path."""
    if ("/" in run or Path(run).exists()) and (as_path(run) / "model.json").exists():
        return as_path(run)
    folder = storage.find(run)
    if not (folder.model / "model.json").exists():
        from heliostat.errors import Problem, UserError

        raise UserError(Problem(folder.reference, "has no finished model"))
    return folder.model


def show_progress(done: int, total: int) -> None:
    """One line a finished unit, on stderr."""
    print(f"scored    {done:,} of {total:,} rows", file=sys.stderr)
