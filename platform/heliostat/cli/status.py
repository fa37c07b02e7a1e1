"""`heliostat status [RUN]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, read_site, storage_option
from heliostat.errors import Problem, UserError, first_line
from heliostat.report.console import duration_text


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
        print_json(states[0] if run else states)
        return
    for state in states:
        print(_line(state))
        if run:
            print("".join(f"  {text}\n" for text in _details(state)), end="")


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


def _line(state: dict[str, Any]) -> str:
    parts = [f"{state['run']:<42}", f"{state['status']:<12}", f"{state.get('progress', 0):>4.0%}"]
    if state.get("eta_seconds") is not None and state["status"] == "RUNNING":
        parts.append(f"eta {duration_text(state['eta_seconds'])}")
    if state.get("error"):
        parts.append(first_line(state["error"]))
    return "  ".join(parts)
