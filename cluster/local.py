"""A real Ray cluster of several nodes on this machine: a head and workers, each with processes of
its own, on loopback, with token authentication.

    python cluster/local.py --nodes 3 --cpus 2

prints what to put into the site file, and ends the cluster on Ctrl-C. With `with_cluster` tests and
other scripts have one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 90


class LocalCluster:
    """Nodes that come and go. `address` is Ray's own, `dashboard` that of Ray Jobs."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder, self.token = folder, token
        self.port, self.dashboard_port, self.metrics_port = (_free_port() for _ in range(3))
        self.address = f"127.0.0.1:{self.port}"
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.scratch: list[str] = []

    def start_head(self, cpus: int = 0) -> subprocess.Popen[bytes]:
        """The head: Ray's services and the drivers of jobs."""
        return self._start(
            "--head", f"--port={self.port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            f"--metrics-export-port={self.metrics_port}", cpus=cpus,
        )  # fmt: skip

    def start_node(self, cpus: int = 1, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        """A worker node that has joined."""
        return self._start(f"--address={self.address}", *more, cpus=cpus, **environment)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node at once, with everything it has started."""
        for pid in [node.pid, *descendants(node.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait(10)

    def end(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self.nodes):
            if node.poll() is None:
                self.kill(node)
        for folder in self.scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def wait_for_jobs(self) -> None:
        """Until Ray Jobs answers, which comes up last."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/version", headers={"Authorization": f"Bearer {self.token}"}
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError("the head's dashboard does not answer") from None
                threading.Event().wait(0.3)

    def _start(self, *arguments: str, cpus: int, **environment: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"node-{len(self.nodes)}.log"
        # Nodes of one machine would else unpack each other's working directories.
        own = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets lie in it
        self.scratch.append(own)
        with log.open("wb") as sink:
            node = subprocess.Popen(
                [
                    sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
                    "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--disable-usage-stats",
                    "--object-store-memory=100000000", f"--temp-dir={own}",
                    f"--dashboard-agent-listen-port={_free_port()}", *arguments,
                ],
                stdout=sink, stderr=sink, env=self._environment() | environment,
            )  # fmt: skip
        self.nodes.append(node)
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text():
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a node did not come up: {log.read_text()[-2000:]}")
            threading.Event().wait(0.2)
        return node

    def _environment(self) -> dict[str, str]:
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # jobs start `python`
        return os.environ | own | {"PATH": path, "RAY_JOB_STOP_WAIT_TIME_S": "60"}


@contextmanager
def with_cluster(
    folder: Path, token: str, nodes: int = 0, cpus: int = 1, head_cpus: int = 0
) -> Iterator[LocalCluster]:
    """A head with `head_cpus` and `nodes` workers with `cpus` each, while it lasts."""
    cluster = LocalCluster(folder, token)
    try:
        cluster.start_head(head_cpus)
        for _ in range(nodes):
            cluster.start_node(cpus)
        cluster.wait_for_jobs()
        yield cluster
    finally:
        cluster.end()


def main() -> None:
    """Start a cluster and wait for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2, help="worker nodes beside the head")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs that each of them offers")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="heliostat-cluster-"))
    folder.chmod(0o700)
    token_file = folder / "token"
    token_file.touch(0o600)
    token_file.write_text(secrets.token_hex(32))
    with with_cluster(folder, token_file.read_text(), options.nodes, options.cpus) as cluster:
        print(f"# {options.nodes + 1} nodes are up; Ctrl-C ends them. For the site file:")
        print(f"storage: {Path.cwd() / 'runs'}  # what all nodes see; runs stay when they are gone")
        print(f'clusters:\n  local: {{address: "{cluster.dashboard}", token_file: {token_file}}}')
        print(f"# metrics: http://127.0.0.1:{cluster.metrics_port}/metrics", flush=True)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


if __name__ == "__main__":
    main()
