"""Shared by all tests: small data sets, one Ray cluster a session, and the command."""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "cluster"))
from local import descendants  # noqa: E402

TOKEN = "test-" + "0" * 40
# Ray reads these once, when it is imported: the same on a laptop and in CI.
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
os.environ.pop("RAY_ADDRESS", None)
# A shell that runs this in the background ignores Ctrl-C for it, and all its children would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Several processes test side by side (pytest-xdist). A head writes its address where Ray Jobs of
# this machine look for one, so each process has a folder of its own; short, as sockets are in it.
if multiprocessing.parent_process() is None:  # ranks of a test have their parent's
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)
NUM_PORTS = 2000
FIRST_PORT = 20000 + NUM_PORTS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
# Nothing fails because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
PATIENCE_SECONDS = 420


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_table(
    folder: Path,
    num_files: int = 3,
    rows_per_file: int = 400,
    seed: int = 0,
    rows_per_group: int = 150,
) -> Path:
    """A table with numbers, categories, missing values and three possible targets."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(num_files):
        n = rows_per_file
        x = rng.normal(size=n).astype(np.float32)
        z = rng.normal(size=n)
        color = rng.choice(["red", "green", "blue"], n)
        logit = 1.5 * x + (color == "red") - 0.5 * z
        table = pa.table(
            {
                "x": pa.array(x, mask=rng.random(n) < 0.05),
                "z": z,
                "count": rng.integers(0, 5, n),
                "color": pa.array(color, mask=rng.random(n) < 0.05),
                "when": pa.array(
                    np.datetime64("2024-01-01", "s")
                    + (i * n + np.arange(n)) * np.timedelta64(600, "s")
                ),
                "late": logit + rng.logistic(size=n) > 0.3,
                "kind": pa.array(np.digitize(logit, [-0.7, 0.9]).astype(str)),
                "amount": 3 * logit + rng.normal(size=n) + 10,
            }
        )
        pq.write_table(table, folder / f"part-{i:02d}.parquet", row_group_size=rows_per_group)
    return folder


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "table")


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All flights of the quickstart, written by its own script."""
    sys.path.insert(0, str(ROOT / "jobs"))
    try:
        from flights import write_flights
    finally:
        sys.path.remove(str(ROOT / "jobs"))
    folder = tmp_path_factory.mktemp("flights")
    write_flights(folder)
    return folder


@dataclass(frozen=True)
class RayHead:
    """A real Ray cluster on loopback, with its token."""

    address: str
    dashboard: str
    token: str


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """One head for the whole session, with token authentication, four CPUs and a dashboard."""
    port, dashboard = free_port(), free_port()
    environment = os.environ | {
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    log = (tmp_path_factory.mktemp("head") / "head.log").open("w")
    head = subprocess.Popen(
        [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=4",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={free_port()}",  # other clusters may be here too
            "--object-store-memory=300000000", "--disable-usage-stats",
            f"--min-worker-port={FIRST_PORT}", f"--max-worker-port={FIRST_PORT + NUM_PORTS - 1}",
        ],
        env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    address = f"127.0.0.1:{port}"
    try:
        _wait_for_head(f"http://127.0.0.1:{dashboard}", head)
        yield RayHead(address, f"http://127.0.0.1:{dashboard}", TOKEN)
    finally:
        for pid in reversed([head.pid, *descendants(head.pid)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait(10)
        log.close()


def _wait_for_head(dashboard: str, head: subprocess.Popen[bytes]) -> None:
    """Until its dashboard answers, which comes up last; half a second between two looks."""
    request = urllib.request.Request(
        f"{dashboard}/api/version", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    for _ in range(180):
        if head.poll() is not None:
            raise RuntimeError(f"the Ray head ended with {head.returncode}")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            threading.Event().wait(0.5)
    raise RuntimeError("the Ray head was not up within 90 seconds")


@pytest.fixture(scope="session")
def ray_session(ray_head: RayHead) -> Iterator[Any]:
    """This process, connected to the session's head."""
    import ray

    from heliostat.run.cluster import quiet_environment

    quiet_environment()
    ray.init(address=ray_head.address, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@dataclass(frozen=True)
class Store:
    """A real S3 server on loopback; `environment` is what a process needs to reach it."""

    filesystem: Any
    environment: dict[str, str]
    pid: int


S3_KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-real-secret"}


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """SeaweedFS with credentials, and a bucket called `bucket`."""
    from pyarrow import fs

    folder = tmp_path_factory.mktemp("s3")
    access, secret = S3_KEYS.values()
    keys = [{"accessKey": access, "secretKey": secret}]
    identity = {"name": "tester", "credentials": keys, "actions": ["Admin", "Read", "Write"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    log = (folder / "weed.log").open("w")
    server = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "weed"), "server", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.config={folder}/s3.json",
            "-master.volumeSizeLimitMB=64", "-volume.max=50", "-master.telemetry=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # fixed ports, which two servers would share
            *(f"-{name}.port={port}" for name, port in ports.items()),
            *(f"-{name}.port.grpc={free_port()}" for name in ports),
        ],
        stdout=log, stderr=log,
    )  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    try:
        _wait_for_store(endpoint, server)
        filesystem = fs.S3FileSystem(
            endpoint_override=endpoint, access_key=access, secret_key=secret,
            region="us-east-1", allow_bucket_creation=True,
        )  # fmt: skip
        filesystem.create_dir("bucket")
        yield Store(filesystem, S3_KEYS | {"AWS_ENDPOINT_URL": endpoint}, server.pid)
    finally:
        server.kill()
        server.wait(10)
        log.close()


@pytest.fixture(params=["folder", "object store"])
def storage_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An empty folder of either kind of storage."""
    if request.param == "folder":
        return tmp_path
    from heliostat.storage.objects import ObjectPath

    store = request.getfixturevalue("s3_store")
    monkeypatch = request.getfixturevalue("monkeypatch")
    for key, value in store.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HELIOSTAT_CACHE", str(tmp_path / "cache"))
    return ObjectPath("s3://bucket", f"tests/{tmp_path.name}")


def _wait_for_store(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    """Until it refuses us for lack of credentials; half a second between two looks."""
    for _ in range(120):
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {server.returncode}")
        try:
            urllib.request.urlopen(endpoint, timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        threading.Event().wait(0.5)
    raise RuntimeError("the S3 server was not up within 60 seconds")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer, saved as Hugging Face saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(special_tokens=["<unk>"], vocab_size=60, show_progress=False)
    made.train_from_iterator(["late again", "on time", "a delay of hours", "b c"] * 4, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.enable_truncation(5)  # not for us: how much is read is for the job to say
    made.save(str(folder / "tokenizer.json"))
    return folder


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def heliostat() -> Command:
    """The command, in a process of its own: `heliostat("plan", path)`."""

    def call(*arguments: object, env: dict[str, str] | None = None, timeout: float = PATIENCE_SECONDS,
             cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "heliostat", *map(str, arguments)],
            env=os.environ | (env or {}), capture_output=True, text=True, timeout=timeout, cwd=cwd,
        )  # fmt: skip

    return call


def job_text(source: Path, **parts: str) -> str:
    """A small job file; `parts` replace or add top-level blocks of YAML."""
    blocks = {
        "name": "name: small",
        "seed": "seed: 3",
        "data": f"data:\n  source: {source}\n  target: late\n  task: binary\n"
        "  features: {x: number, z: number, count: number, color: category}",
        "model": "model: {kind: xgboost, max_depth: 3}",
        "train": "train: {rounds: 4}",
    } | parts
    return "\n".join(block for block in blocks.values() if block) + "\n"


@pytest.fixture
def make_job(tmp_path: Path, table: Path) -> Callable[..., Path]:
    """Write a job file over the small table into a folder of its own."""

    def make(source: Path = table, **parts: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(job_text(source, **parts))
        return path

    return make
