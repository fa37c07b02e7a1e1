"""What a person sees while a run goes on: lines on stderr, and below them on a terminal what moves.

stdout stays free for data. Every line also goes to the run's log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from heliostat.report.lines import HANG, as_typed, command_lines, encodable, wrapped
from heliostat.report.live import Activity, StepBar

LINE_SECONDS, DETAIL_SECONDS = 1.0, 10.0  # between two lines of the same
FRAMES_PER_SECOND = 8


class Terminal(RichConsole):
    """rich's console, which never hides the cursor: a process that is killed cannot show it
    again.
    """

    def __init__(self, file: TextIO, **settings: Any) -> None:
        super().__init__(file=file, highlight=False, emoji=False, **settings)

    @property
    def is_seen(self) -> bool:
        """Whether a person looks at it; colours may be forced on a file as well."""
        return self.file.isatty()

    @property
    def moves(self) -> bool:
        """Whether lines can be drawn again."""
        return self.is_seen and self.is_terminal and not self.is_dumb_terminal

    def show_cursor(self, show: bool = True) -> bool:
        """Nothing."""
        return False

    def fit(self, text: str, hang: int = HANG) -> list[str]:
        """`text` in lines as wide as the terminal; elsewhere it is one line."""
        text = encodable(text, self.encoding)
        return (wrapped(text, self.width, hang) if self.is_seen else [text]) or [""]


class Console:
    """Talks on stderr; `log` (if set) keeps every line."""

    def __init__(
        self, log: Callable[[str], None] | None = None, terminal: Terminal | None = None
    ) -> None:
        self.terminal = terminal or Terminal(sys.stderr)
        self.log = log
        self._live: Live | None = None
        self._shown: RenderableType | None = None
        self._bar, self._activity = StepBar(), Activity("")
        self._last_step = self._last_said = 0.0

    def line(self, text: str, style: str | None = None, hang: int = HANG) -> None:
        """One line, in as many as the terminal needs for it."""
        self._print(self.terminal.fit(text, hang), style)
        if self.log is not None:
            self.log(text)

    def block(self, text: str, hang: int = HANG) -> None:
        """Several lines, each kept."""
        for line in text.rstrip("\n").split("\n"):
            self.line(line, hang=hang)

    def command(self, text: str) -> None:
        """A command for a person to copy; not kept."""
        terminal, text = self.terminal, as_typed(text)
        self._print(command_lines(text, terminal.width) if terminal.is_seen else [f"  {text}"])

    def doing(self, text: str, detail: str = "") -> None:
        """What is going on until something else is shown, and how far it is. Where nothing can
        move it is a line, and another one now and then.
        """
        now = time.monotonic()
        is_new = text != self._activity.text
        if is_new:
            self._activity = Activity(text, since=now)
        self._activity.detail = detail
        if is_new or (detail and now - self._last_said > DETAIL_SECONDS):
            self._last_said = now
            self._keep(text if is_new else f"{text}: {detail}")
        self.show(self._activity)

    def step(self, step: int, num_steps: int, parts: Sequence[str], eta: str = "") -> None:
        """A logged step: moves the bar; a line at most once a second, and always the last."""
        self._bar.step, self._bar.num_steps = step, num_steps
        self._bar.parts, self._bar.eta = parts, eta
        self.show(self._bar)
        now = time.monotonic()
        if now - self._last_step < LINE_SECONDS and step < num_steps:
            return
        self._last_step = now
        said = "  ".join([*parts, *([eta] if eta else [])])
        self._keep(f"step {step:>{len(str(num_steps))}}/{num_steps}  {said}")

    def show(self, below: RenderableType, stays: bool = False) -> None:
        """Show something below the lines of a terminal, in place of what was there; with `stays`
        it is left on the screen in the end.
        """
        if not self.terminal.moves:
            return
        if self._live is None:
            # stdout is redirected by others meanwhile: what they put back must be their own.
            self._live = Live(
                console=self.terminal, refresh_per_second=FRAMES_PER_SECOND, redirect_stdout=False
            )
            self._live.start()
        self._live.transient = not stays
        if below is not self._shown:
            self._shown = below
            self._live.update(below)

    def rest(self) -> None:
        """Let nothing move any more."""
        if self._live is not None:
            self._live.stop()
        self._live = self._shown = None

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Whatever happens in the block, nothing moves after it."""
        try:
            yield
        finally:
            self.rest()

    def _keep(self, text: str) -> None:
        """A line for the log; a terminal shows the same as what moves."""
        if not self.terminal.moves:
            self.line(text)
        elif self.log is not None:
            self.log(text)

    def _print(self, lines: Sequence[str], style: str | None = None) -> None:
        text = Text("\n".join(lines), style=style or "")
        self.terminal.print(text, soft_wrap=True)


def print_text(text: str) -> None:
    """Lines on stdout: data, but broken between words where a person looks at it."""
    terminal = Terminal(sys.stdout)
    for line in text.rstrip("\n").split("\n"):
        sys.stdout.write("\n".join(terminal.fit(line)) + "\n")


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
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"
