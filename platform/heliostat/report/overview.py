"""Runs as a table: what they are called, how far they are, how well they did, and when."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from heliostat.errors import first_line
from heliostat.report.console import duration_text, number_text
from heliostat.report.lines import aligned, wrapped

HEADER = ("RUN", "STATUS", "DONE", "SCORE", "STARTED", "TOOK")
RIGHT = (False, False, True, False, False, True)
INDENT = 2

State = Mapping[str, Any]


def overview(states: Sequence[State], width: int | None) -> list[str]:
    """Lines for a terminal of this width; None: one line a run, however long. What there is to
    say of a run stands below it, or at the end of its line.
    """
    rows = [HEADER, *map(_cells, states)]
    notes = ["", *map(_note, states)]
    if width is None:
        noted = [(*row, note) for row, note in zip(rows, ["NOTE", *notes[1:]], strict=True)]
        return aligned(noted, (*RIGHT, False))
    heads = aligned(rows, RIGHT)
    if max(map(cell_len, heads)) > width:
        tails = aligned([row[1:] for row in rows], RIGHT[1:])
        heads = [f"{row[0]}\n{' ' * INDENT}{tail}" for row, tail in zip(rows, tails, strict=True)]
    lines: list[str] = []
    for head, note in zip(heads, notes, strict=True):
        for line in head.split("\n"):
            lines += wrapped(line, width, INDENT)
        lines += wrapped(" " * INDENT + note, width, INDENT) if note else []
    return lines


def _cells(state: State) -> tuple[str, ...]:
    score, started, seconds = (state.get(key) for key in ("score", "started", "seconds"))
    return (
        str(state["run"]),
        str(state["status"]),
        f"{state.get('progress') or 0:.0%}",
        f"{score['split']} {score['metric']} {number_text(score['value'])}" if score else "-",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) if started else "-",
        duration_text(seconds) if seconds is not None else "-",
    )


def _note(state: State) -> str:
    if state["status"] == "RUNNING" and state.get("eta_seconds") is not None:
        return f"eta {duration_text(state['eta_seconds'])}"
    error = state.get("error")
    return first_line(error) if error else ""
