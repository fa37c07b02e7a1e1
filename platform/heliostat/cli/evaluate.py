"""`heliostat evaluate RUN --data SOURCE`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.cli.predict import model_folder, show_progress
from heliostat.report.console import metric_text
from heliostat.storage.files import finite


@click.command("evaluate")
@click.argument("run")
@click.option("--data", "source", required=True, help="Parquet: a file, folder or glob.")
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else an embedded one.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(run: str, source: str, address: str | None, as_json: bool, storage: str | None) -> None:
    """Score a run's model on a source that has the target, by Ray Data."""
    model = model_folder(open_storage(storage), run)
    from heliostat.run.cluster import connected
    from heliostat.train.predict import evaluate

    with connected(address) as cluster:
        metrics, counts = evaluate(model, source, int(cluster.cpus), show_progress)
    if as_json:
        print_json(finite({"metrics": metrics} | counts))
    else:
        print(f"{counts['evaluated']:,} of {counts['rows']:,} rows  {metric_text(metrics)}")
