"""The cluster that a run embeds in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_SECONDS

LOOPBACK = ["0000000000000000FFFF00000100007F", "0100007F"]  # as IPv6 and IPv4
SCRIPT = """
import os, signal, sys
from pathlib import Path
import ray
from heliostat.run.cluster import connected

def below(pid):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "status").read_text(), (folder / "cmdline").read_text()
        except OSError:
            continue  # it has ended meanwhile
        if f"PPid:\\t{pid}\\n" in status:
            yield folder.name, command.replace(chr(0), " ").split(" --")[0]
            yield from below(folder.name)

def listening(pid):
    # hex addresses that a process accepts connections at
    try:
        files = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()]
    except OSError:
        return
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in files:
                yield fields[1].partition(":")[0]

@ray.remote
def variables():
    return [os.environ.get(name) for name in ("PLAIN", "GROWN")]

out = sys.stdout  # while it lasts, what is printed goes to stderr
with connected(None):
    print(ray.get(variables.remote()), file=out)
    plain = {"PLAIN": "a 'b' \\n c"}
    for given in (plain, plain | {"GROWN": "${HOME}/more"}):  # Ray's own rules for the latter
        print(ray.get(variables.options(runtime_env={"env_vars": given}).remote()), file=out)
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    print(oct(session.parent.parent.stat().st_mode & 0o777), file=out)
    print(sorted({host for pid in [os.getpid(), *(pid for pid, _ in below(os.getpid()))]
                  for host in listening(pid)}), file=out)
    for pid, command in below(os.getpid()):
        print(pid, command, file=out)
    out.flush()
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def embedded(*words):
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment,
    )  # fmt: skip


def test_only_what_one_process_needs_is_started():
    done = embedded()
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[:3] == [
        "[None, None]",
        repr(["a 'b' \n c", None]),
        repr(["a 'b' \n c", f"{os.environ['HOME']}/more"]),
    ]
    assert told[3:5] == ["0o700", repr(LOOPBACK)]
    for server in ("gcs_server", "raylet", "embedded/agent.py"):
        assert server in done.stdout
    for server in ("monitor.py", "log_monitor.py", "dashboard.py", "DashboardAgent"):
        assert server not in done.stdout


# What is left behind comes to this one, as to a user's systemd, not to process 1.
ADOPTS = """
import subprocess, sys
from heliostat.processes import adopt_orphans
adopt_orphans()
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
print("over", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("adopted", [False, True])
def test_nothing_outlives_the_process(adopted):
    if not adopted:
        told = embedded("die").stdout.splitlines()
        return _all_end(told)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", ADOPTS, SCRIPT, "die"], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as outer:  # fmt: skip
        _all_end(iter(outer.stdout.readline, "over\n"))
        outer.stdin.close()


def _all_end(lines):
    # Ray's own agent of environments looks for its cluster for a minute more.
    told = [line for line in list(lines)[5:] if "RuntimeEnvAgent" not in line]
    assert len(told) > 3
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := [line for line in told if _lives(line.split()[0])]:
        assert time.monotonic() < deadline, left
        threading.Event().wait(0.2)


def _lives(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
