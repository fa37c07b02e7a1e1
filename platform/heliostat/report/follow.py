"""Follow a run from its folder alone: its lines as they come, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from heliostat.errors import (
    INTERRUPTED,
    STOPPED,
    HeliostatError,
    InterruptedRunError,
    StoppedError,
    TrainError,
    UnknownOutcomeError,
)
from heliostat.report.console import Console
from heliostat.report.lines import command_of
from heliostat.report.result import Result
from heliostat.storage.lines import tell_once
from heliostat.storage.rows import line_fault
from heliostat.storage.runs import RUNNING_STATES, RunFolder
from heliostat.storage.segments import read_rows

POLL_SECONDS = 0.5
OUTCOMES: dict[str, type[HeliostatError]] = {
    "FAILED": TrainError,
    "STOPPED": StoppedError,
    "INTERRUPTED": InterruptedRunError,
}


def follow(folder: RunFolder, console: Console) -> Result:
    """Print a run's new lines until it ends; its result.

    Raises:
        HeliostatError: the run did not succeed; the kind says how it ended.
    """
    console.rest()
    state = folder.read_state()
    if state["status"] in RUNNING_STATES:
        console.line(f"run       {folder.reference} is running elsewhere; following it")
        for line in new_lines(
            folder, lambda: folder.read_state()["status"] in RUNNING_STATES, True
        ):
            console.line(line)
        state = folder.read_state()
    return result_of(folder, state)


def result_of(folder: RunFolder, state: dict[str, Any]) -> Result:
    """The result of a run that has ended, or the error that its state stands for."""
    if state["status"] == "SUCCEEDED":
        return Result.load(folder.path)
    kind = OUTCOMES.get(state["status"], UnknownOutcomeError)
    error = kind(
        f"{folder.reference} is {state['status']}: {state.get('error') or 'no reason given'}"
    )
    error.go_on = state.get("next", "") if error.exit_status in (STOPPED, INTERRUPTED) else ""
    raise error


def new_lines(
    folder: RunFolder, goes_on: Callable[[], bool], only_new: bool = False
) -> Iterator[str]:
    """The run's log lines in order, each once, while `goes_on()` and then to the end."""
    seen = sum(1 for _ in read_rows(folder.logs, _later, line_fault)) if only_new else 0
    while True:
        more = goes_on()  # before the lines, so that the last ones are read after the end
        rows = list(read_rows(folder.logs, _later if more else tell_once, line_fault))
        for row in rows[seen:]:
            yield str(row["line"])
        seen = max(seen, len(rows))
        if not more:
            return
        time.sleep(POLL_SECONDS)


def _later(text: str) -> None:
    """What is skipped now may be a line on its way; what stays is told at the end."""


def resume_command(folder: RunFolder) -> str:
    """The command that continues a run, from wherever it is given."""
    storage = ("--storage", folder.storage.root)
    return command_of("run", "--resume", folder.reference, *storage)
