"""What needs a GPU still runs, on the CPU and in little."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import PATIENCE_SECONDS, ROOT

pytestmark = pytest.mark.slow


def test_the_gpu_tests_run_on_the_cpu():
    """In a process of their own: which device it is, is decided once a process."""
    done = on_cpu("-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/gpu")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and " skipped" not in done.stdout


def test_the_gpu_benchmark_runs_on_the_cpu():
    parts = ("peak", "gpt_350m", "small_steps", "fused", "reader", "scoring")
    done = on_cpu("-m", "tests.bench.gpu", *parts)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((ROOT / "gpu-on-cpu.json").read_text())
    assert told["card"] == "no GPU" and not told["failed"] and len(told["figures"]) >= 15


def on_cpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"HELIOSTAT_DEVICE": "cpu"}, cwd=ROOT,
        capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
