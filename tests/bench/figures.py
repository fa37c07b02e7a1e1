"""How a benchmark measures and reports: pairs in turns, and figures through a file.

The machine's speed drifts, so two things are compared in turns, one after the other, and what
counts is the median of the pairs' ratios. Figures go to the file that `HELIOSTAT_BENCH` names, one
JSON object a line; what is printed is for people, and whatever Ray prints harms nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

ROOT = Path(__file__).parent.parent.parent
FILE_VARIABLE = "HELIOSTAT_BENCH"
PAIRS = 5


@dataclass(frozen=True)
class Goal:
    """What a figure should be."""

    kind: Literal["at most", "at least"]
    value: float

    def met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value <= self.value if self.kind == "at most" else value >= self.value


def at_most(value: float) -> Goal:
    """A goal from above."""
    return Goal("at most", value)


def at_least(value: float) -> Goal:
    """A goal from below."""
    return Goal("at least", value)


@dataclass(frozen=True)
class Figure:
    """One line of the table. `values` has one entry a turn, in `unit`; a ratio's unit is `x`."""

    name: str
    unit: str
    values: tuple[float, ...]
    goal: Goal | None = None
    parts: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The value that is quoted."""
        return median(self.values)

    def line(self) -> str:
        """The figure in words."""
        goal = "" if self.goal is None else f"{self.goal.kind} {self.goal.value:g}"
        met = "" if self.goal is None else ("met" if self.goal.met(self.median) else "MISSED")
        spread = f"{min(self.values):.3g} to {max(self.values):.3g}"
        return f"{self.name:<72} {self.median:>8.3g} {self.unit:<4} {spread:<18} {goal:<14} {met}"


def report(figure: Figure) -> Figure:
    """Print a figure, and add it to the file of all, where there is one."""
    parts = "".join(
        f"; {name} {median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
        for name, values in figure.parts.items()
    )
    print(figure.line() + parts, flush=True)
    if path := os.environ.get(FILE_VARIABLE):
        with open(path, "a") as lines:
            lines.write(json.dumps(asdict(figure)) + "\n")
    return figure


def compare(
    name: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    goal: Goal | None = None,
    *,
    pairs: int = PAIRS,
    warm_up: bool = True,
) -> Figure:
    """The ratio of two quantities, ours to theirs, measured in turns. Each call measures once and
    returns its quantity: most often seconds, see `seconds_of`.
    """
    if warm_up:
        ours(), theirs()
    turns = [(ours(), theirs()) for _ in range(pairs)]
    mine, other = zip(*turns, strict=True)
    ratios = tuple(a / b for a, b in turns)
    return report(Figure(name, "x", ratios, goal, {"ours": mine, "theirs": other}))


def measure(
    name: str,
    ours: Callable[[], float],
    unit: str,
    goal: Goal | None = None,
    *,
    turns: int = PAIRS,
    warm_up: bool = True,
) -> Figure:
    """A quantity of ours alone, in some unit."""
    if warm_up:
        ours()
    return report(Figure(name, unit, tuple(ours() for _ in range(turns)), goal))


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_command(*arguments: object, env: dict[str, str] | None = None) -> float:
    """Wall time of `heliostat ...` from outside; an error ends the benchmark with its output."""
    return run_process([sys.executable, "-m", "heliostat", *map(str, arguments)], env)


def run_script(script: str, *arguments: object, env: dict[str, str] | None = None) -> float:
    """Wall time of a Python script, given as its text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.py"
        path.write_text(script)
        return run_process([sys.executable, str(path), *map(str, arguments)], env)


def run_process(command: Sequence[str], env: dict[str, str] | None = None) -> float:
    """Wall time of a process."""
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | (env or {}), cwd=ROOT, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return seconds


def result_of(storage: Path, run: str) -> dict[str, Any]:
    """`result.json` of a run: its metrics, and seconds by phase."""
    result: dict[str, Any] = json.loads((storage / "runs" / run / "result.json").read_text())
    return result
