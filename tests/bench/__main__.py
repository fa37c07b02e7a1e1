"""`python -m tests.bench [NAME ...]`: the named benchmarks, or all that end in one table.

Each runs in a process of its own and leaves its figures in a file. The table and `bench.json`,
with the machine's name and the versions of the libraries, come last.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tests.bench.figures import FILE_VARIABLE, ROOT, Figure, Goal

ALL = ("boosted", "prepare", "reader", "loop", "parallel", "cold_run", "predict")
TABLE = ROOT / "bench.json"
LIBRARIES = ("ray", "torch", "xgboost", "numpy", "pyarrow")
BOUND_SECONDS = 600


def main() -> int:
    """Run them one after another; how many failed."""
    figures: list[Figure] = []
    failed = []
    started = time.monotonic()
    for name in sys.argv[1:] or ALL:
        print(f"-- {name}", flush=True)
        found, code = figures_of(name)
        figures += found
        if code:
            failed.append(name)
    print(f"\n{machine()['machine']}, {time.monotonic() - started:.0f} s")
    for figure in figures:
        print(figure.line())
    for name in failed:
        print(f"{name} FAILED")
    TABLE.write_text(
        json.dumps(machine() | {"figures": [as_json(each) for each in figures]}, indent=1) + "\n"
    )
    return len(failed)


def figures_of(name: str) -> tuple[list[Figure], int]:
    """What a benchmark reports, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.jsonl"
        path.touch()
        try:
            code = subprocess.run(
                [sys.executable, "-m", f"tests.bench.{name}"],
                env=os.environ | {FILE_VARIABLE: str(path)}, cwd=ROOT, timeout=BOUND_SECONDS,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = 1
        return [figure_of(json.loads(line)) for line in path.read_text().splitlines()], code


def figure_of(found: dict) -> Figure:
    """A figure from its line in the file."""
    goal = found.pop("goal")
    return Figure(goal=None if goal is None else Goal(**goal), **found)


def as_json(figure: Figure) -> dict[str, object]:
    """A figure as `bench.json` has it."""
    return {
        "name": figure.name,
        "unit": figure.unit,
        "median": figure.median,
        "values": figure.values,
        "parts": figure.parts,
        "goal": None if figure.goal is None else f"{figure.goal.kind} {figure.goal.value:g}",
        "met": None if figure.goal is None else figure.goal.met(figure.median),
    }


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpus = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    name = cpus[0] if cpus else platform.processor()
    return {
        "machine": f"{os.cpu_count()} x {name}, Python {platform.python_version()}",
        "versions": {library: version(library) for library in LIBRARIES},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    sys.exit(main())
