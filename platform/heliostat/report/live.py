"""What moves at the bottom of a terminal: an activity, a training's bar, the trials of a sweep.

Each is drawn anew several times a second for the size that the terminal has then; the functions
that lay lines out are pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from heliostat.report.lines import aligned, encodable, shortened, wrapped

FEWEST_BAR_CELLS, MOST_BAR_CELLS = 10, 40
FEWEST_CONFIG_CELLS = 24


@dataclass
class Activity:
    """Something without a measure that takes a while: a spinner, and the seconds so far."""

    text: str
    detail: str = ""
    since: float = 0.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line."""
        frame = Spinner("line" if options.ascii_only else "dots").render(console.get_time())
        text = f"{self.text}: {self.detail}" if self.detail else self.text
        said = f"{text}  {time.monotonic() - self.since:.0f}s"
        assert isinstance(frame, Text)
        frame.append(" " + encodable(wrapped(said, options.max_width - 3)[0], options.encoding))
        yield frame


@dataclass
class StepBar:
    """How far a training is; what does not fit beside the bar stands below it."""

    step: int = 0
    num_steps: int = 1
    parts: Sequence[str] = ()
    eta: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line, or a few."""
        width = options.max_width
        counted = f"{self.step}/{self.num_steps}" + (f"  {self.eta}" if self.eta else "")
        details = "  ".join(self.parts)
        whole = f"{counted}  {details}".rstrip()
        if cell_len(whole) + 1 + FEWEST_BAR_CELLS <= width:
            counted, details = whole, ""
        bar_cells = min(MOST_BAR_CELLS, width - cell_len(counted) - 1)
        if bar_cells >= FEWEST_BAR_CELLS:
            grid = Table.grid(padding=(0, 1, 0, 0))
            grid.add_row(ProgressBar(self.num_steps, self.step, bar_cells), Text(counted))
            yield grid
        else:
            yield _text(wrapped(counted, width, 0), options)
        if details:
            yield _text(wrapped(details, width, 0), options)


@dataclass(frozen=True)
class Leaderboard:
    """Trials in the order to be shown. A row has a place, a score, a status, a length, a time and
    a configuration; `rows` may be fewer than `num_trials`.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_trials: int
    num_to_come: int = 0


@dataclass(frozen=True)
class TrialTable:
    """The best trials of a sweep, as many as the terminal has lines for. `board` is given how many
    rows could be shown.
    """

    board: Callable[[int], Leaderboard]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """All lines of the terminal but one."""
        height = options.size.height - 1
        board = self.board(height)
        rows = [[encodable(cell, options.encoding) for cell in row] for row in board.rows]
        lines = table_lines(replace(board, rows=rows), options.max_width, height)
        yield _text(lines, options)


def table_lines(board: Leaderboard, width: int, height: int) -> list[str]:
    """A leaderboard in at most `height` lines; how many trials are not among them stands below."""
    title = wrapped(board.title, width, 2)
    header, *bodies = _row_lines(board, width)
    for shown in range(len(bodies), -1, -1):
        rows = [line for body in bodies[:shown] for line in body]
        rest = board.num_trials - shown
        more = wrapped(_more(rest, board.num_to_come), width, 2) if rest else []
        lines = [*title, *(header if shown else []), *rows, *more]
        if len(lines) <= height:
            break
    return lines[-height:]


def _more(count: int, num_to_come: int) -> str:
    if num_to_come == 0:
        return f"and {count} more"
    if num_to_come == count:
        return f"and {count} more to come"
    return f"and {count} more, {num_to_come} of them to come"


def _row_lines(board: Leaderboard, width: int) -> list[list[str]]:
    """The header and each row as lines: the configuration beside the other cells, or below them
    where that leaves it too little room.
    """
    cells = [list(row) for row in (board.header, *board.rows)]
    # What the narrowest terminals lack: the time, then the length.
    for columns in ((0, 1, 2, 3, 4), (0, 1, 2, 3), (0, 1, 2)):
        right = [column != 2 for column in columns]
        fixed = aligned([[row[column] for column in columns] for row in cells], right)
        beside = max(map(cell_len, fixed)) + 2
        if width - beside >= FEWEST_CONFIG_CELLS:
            return [
                _beside(line, row[-1], beside, width)
                for line, row in zip(fixed, cells, strict=True)
            ]
    return [_below(line, row[-1], width) for line, row in zip(fixed, cells, strict=True)]


def _beside(line: str, config: str, begin: int, width: int) -> list[str]:
    room = width - begin
    first, *more = wrapped(shortened(config, room), room, 0) or [""]
    padded = line + " " * (begin - cell_len(line)) + first
    return [padded.rstrip(), *(" " * begin + part for part in more)]


def _below(line: str, config: str, width: int) -> list[str]:
    indent = min(4, width // 4)
    parts = wrapped(shortened(config, width - indent), width - indent, 0)
    return [*wrapped(line, width, indent), *(" " * indent + part for part in parts)]


def _text(lines: Sequence[str], options: ConsoleOptions) -> Group:
    return Group(
        *(Text(encodable(line, options.encoding), no_wrap=True, overflow="crop") for line in lines)
    )
