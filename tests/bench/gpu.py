"""What a GPU makes of it: language models, small steps, fused sweeps, reading, scoring, checkpoints.

`python -m tests.bench.gpu [PART ...]` runs `tests/gpu/` and every part in a process of its own with a
bound on its time, so that one that hangs costs no other; all within eight minutes. Figures are
written as they come; the table and `gpu.json` have the card's name. With `HELIOSTAT_PROFILE=FOLDER`
the language models write what their kernels took. `HELIOSTAT_DEVICE=cpu` takes sizes so small that
only running is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from heliostat.train.versions import versions
from tests.bench.__main__ import as_json, figure_of
from tests.bench.figures import FILE_VARIABLE, ROOT, Figure, report

BOUNDS_SECONDS = {
    "tests": 150, "peak": 20, "gpt_350m": 100, "gpt_1300m": 90, "small_steps": 35,
    "fused": 40, "reader": 20, "scoring": 20,
}  # fmt: skip
ON_CPU = os.environ.get("HELIOSTAT_DEVICE") == "cpu"
TABLE = ROOT / ("gpu-on-cpu.json" if ON_CPU else "gpu.json")


def main() -> int:
    """Run the parts, and write the table; how many failed."""
    failed = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(os.environ.get(FILE_VARIABLE) or Path(folder) / "figures.jsonl")
        path.touch()
        for name in sys.argv[1:] or BOUNDS_SECONDS:
            print(f"-- {name}", flush=True)
            if not finishes(name, path):
                failed.append(name)
            write(path, failed, time.monotonic() - begun)
    print(f"\n{card()}, {time.monotonic() - begun:.0f} s; {TABLE.name}")
    for figure in json.loads(TABLE.read_text())["figures"]:
        print(figure["line"])
    for name in failed:
        print(f"{name} FAILED, or took more than {BOUNDS_SECONDS[name]} s")
    return len(failed)


def finishes(name: str, path: Path) -> bool:
    """Whether a part ended well and in time. It has a session of its own, which is ended whole."""
    if name == "tests":
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/gpu"]
    else:
        command = ["-c", f"from tests.bench import gpu_parts; gpu_parts.{name}()"]
    environment = os.environ | {FILE_VARIABLE: str(path)}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        code = process.wait(BOUNDS_SECONDS[name])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return False
    if name == "tests":
        os.environ[FILE_VARIABLE] = str(path)
        report(Figure("tests/gpu", "s", (time.perf_counter() - begun,)))
    return code == 0


def write(path: Path, failed: list[str], seconds: float) -> None:
    """The table so far."""
    figures = [figure_of(json.loads(line)) for line in path.read_text().splitlines()]
    rows = [as_json(figure) | {"line": figure.line()} for figure in figures]
    told = {
        "card": card(), "date": time.strftime("%Y-%m-%d"), "versions": versions(),
        "seconds": round(seconds), "failed": failed, "figures": rows,
    }  # fmt: skip
    TABLE.write_text(json.dumps(told, indent=1) + "\n")


def card() -> str:
    """The GPU's name."""
    import torch

    if ON_CPU or not torch.cuda.is_available():
        return "no GPU"
    return str(torch.cuda.get_device_name())


if __name__ == "__main__":
    sys.exit(main())
