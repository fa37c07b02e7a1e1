"""The cluster that a run embeds in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os
from pathlib import Path
import ray
from heliostat.run.cluster import connected

def children():
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "status").read_text(), (folder / "cmdline").read_text()
        except OSError:
            continue  # it has ended meanwhile
        if f"PPid:\\t{os.getpid()}\\n" in status:
            yield Path(command.replace(chr(0), " ").split(" --")[0].split("/")[-1]).name

with connected(None):
    answer, names = ray.get(ray.remote(lambda: 6 * 7).remote()), sorted(set(children()))
print(answer, names)
"""


def test_only_what_one_process_needs_is_started():
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" ", 1)[0] == "42"
    for server in ("gcs_server", "raylet"):
        assert server in done.stdout
    for server in ("monitor.py", "log_monitor.py", "dashboard.py"):
        assert server not in done.stdout
