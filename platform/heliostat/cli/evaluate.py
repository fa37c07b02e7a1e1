"""`heliostat evaluate RUN --data SOURCE`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.cli.scoring import model_folder, scoring_tasks, show_progress, tell_shares
from heliostat.report.console import metric_text
from heliostat.storage.files import finite


@click.command("evaluate")
@click.argument("run")
@click.option("--data", "source", required=True, help="A file, folder or glob, as in a job file.")
@click.option("--address", help="A Ray cluster; default RAY_ADDRESS, else none for small data.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(run: str, source: str, address: str | None, as_json: bool, storage: str | None) -> None:
    """Score a run's model on a source that has the target: in this process if it is small (under
    1 GiB) and no cluster is named, else by Ray Data, with the same result to the bit.
    """
    model = model_folder(open_storage(storage), run)
    from heliostat.train.evaluate import evaluate
    from heliostat.train.scoring_source import open_scoring

    scoring = open_scoring(model, source, with_target=True)
    with scoring_tasks(address, scoring.catalog.num_bytes) as num_tasks:
        metrics, counts, found = evaluate(scoring, num_tasks, show_progress)
    values = tell_shares(scoring.trained, found)
    if as_json:
        print_json(finite({"metrics": metrics} | counts | values))
    else:
        print(f"{counts['evaluated']:,} of {counts['rows']:,} rows  {metric_text(metrics)}")
