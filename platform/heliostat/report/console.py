"""What a person sees while a run goes on: lines on stderr, and a bar on a terminal.

stdout stays free for data. Every line also goes to the run's log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

LINE_SECONDS = 1.0
MAX_TABLE_ROWS = 12


class Console:
    """Talks on stderr; `log` (if set) keeps every line."""

    def __init__(self, log: Callable[[str], None] | None = None) -> None:
        self.rich = RichConsole(file=sys.stderr, highlight=False, soft_wrap=True)
        self.log = log
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._live: Live | None = None
        self._last_step = 0.0

    @property
    def interactive(self) -> bool:
        """Whether a person looks at a terminal."""
        return self.rich.is_terminal

    def line(self, text: str, style: str | None = None) -> None:
        """One line."""
        self.rich.print(text, style=style, markup=False)
        if self.log is not None:
            self.log(text)

    def block(self, text: str) -> None:
        """Several lines, each kept."""
        for line in text.rstrip("\n").split("\n"):
            self.line(line)

    def step(self, step: int, num_steps: int, text: str) -> None:
        """A logged step: moves the bar; a line at most once a second, and always the last."""
        if self.interactive:
            self._move_bar(step, num_steps, text)
        now = time.monotonic()
        if now - self._last_step < LINE_SECONDS and step < num_steps:
            return
        self._last_step = now
        line = f"step {step:>{len(str(num_steps))}}/{num_steps}  {text}"
        if not self.interactive:
            self.line(line)
        elif self.log is not None:
            self.log(line)

    def trials(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The live table of trials; on no terminal, nothing (each trial has its line)."""
        if not self.interactive:
            return
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in header:
            table.add_column(name, justify="left" if name in ("status", "config") else "right")
        for row in rows[:MAX_TABLE_ROWS]:
            table.add_row(*row)
        if self._live is None:
            self._live = Live(console=self.rich, refresh_per_second=4)
            self._live.start()
        self._live.update(table)

    def rest(self) -> None:
        """Take the bar and the live table off the screen's bottom."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _move_bar(self, step: int, num_steps: int, text: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                BarColumn(40), TextColumn("{task.completed}/{task.total}  {task.description}"),
                console=self.rich, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=num_steps)
        assert self._task is not None
        self._bar.update(self._task, completed=step, total=num_steps, description=text)


def metric_text(metrics: Mapping[str, Any]) -> str:
    """`auc 0.9123  accuracy 0.9042`."""
    return "  ".join(f"{name} {number_text(value)}" for name, value in metrics.items())


def number_text(value: Any) -> str:
    """A number in as many digits as it deserves."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"
    return str(value)


def duration_text(seconds: float) -> str:
    """`41s`, `3:07` or `2:03:07`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
