"""`heliostat status [RUN]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, read_site, storage_option
from heliostat.errors import Problem, UserError
from heliostat.report.console import Terminal
from heliostat.report.overview import overview


@click.command("status")
@click.argument("run", required=False)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Only runs with this label.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
@storage_option
def command(run: str | None, labels: tuple[str, ...], as_json: bool, storage: str | None) -> None:
    """Show one run, or all of them."""
    from heliostat.launch.view import all_runs, find_run

    wanted = dict(_label(text) for text in labels)
    place, site = open_storage(storage), read_site()
    views = [find_run(place, site, run)] if run else all_runs(place, site)
    states = [view.state() for view in views]
    states = [s for s in states if wanted.items() <= s.get("labels", {}).items()]
    if as_json:
        print_json(next(iter(states), None) if run else states)
        return
    if not states:
        having = f" with the label {', '.join(labels)}" if labels else ""
        print(f"no runs{having} in {place.root}; --storage looks elsewhere", file=sys.stderr)
        return
    terminal = Terminal(sys.stdout)
    width = terminal.width if terminal.is_seen else None
    print("\n".join(overview(states, width)))
    if run:
        print("".join(f"  {text}\n" for text in _details(states[0])), end="")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(Problem("--label", f"`{text}`: write it as key=value"))
    return key, value


def _details(state: dict[str, Any]) -> Iterator[str]:
    for rank, place in state.get("placement", {}).items():
        yield f"rank {rank:<3} on {place}"
    for key, value in state.get("hours", {}).items():
        yield f"{value:,.2f} money" if key == "cost" else f"{value:,.3f} {key.upper()}-hours"
    if state.get("next"):
        yield f"next: {state['next']}"
