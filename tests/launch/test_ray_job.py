"""Ray Jobs on a real head with token authentication."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from heliostat.cli.options import read_site
from heliostat.launch import ray_job
from heliostat.launch.sent import find_sent
from heliostat.launch.view import find_run
from heliostat.spec.load import load_job
from heliostat.storage.runs import Storage
from heliostat.storage.segments import read_rows
from tests.conftest import PATIENCE_SECONDS
from tests.launch.test_kube import check_sent_again


@pytest.fixture
def site(tmp_path, ray_head):
    """A site file with our head, one that refuses our token, and one that is not there."""
    (tmp_path / "token").write_text(ray_head.token + "\n")
    (tmp_path / "wrong").write_text("wrong" * 10)
    path = tmp_path / "site.yaml"
    path.write_text(
        f"storage: {tmp_path}/s\nclusters:\n"
        f'  lab: {{address: "{ray_head.dashboard}", token_file: "{tmp_path}/token"}}\n'
        f'  stranger: {{address: "{ray_head.dashboard}", token_file: "{tmp_path}/wrong"}}\n'
        '  gone: {address: "http://127.0.0.1:9"}\n'
    )
    return {"HELIOSTAT_SITE": str(path)}


def test_a_job_is_sent_once_followed_and_found_again(heliostat, make_job, site, tmp_path):
    job = make_job()
    rendered = json.loads(heliostat("render", job, "--to", "lab", "--id", "one", env=site).stdout)
    assert rendered["entrypoint"] == "python -m heliostat run job.json --id one"
    assert rendered["submission_id"] == "small-one"
    done = heliostat("submit", job, "--to", "lab", "--id", "one", "--wait", env=site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small/one\n") and "report    " in done.stdout
    assert "heliostat logs -f small/one" in done.stderr and "INFO" not in done.stderr
    again = heliostat("submit", job, "--to", "lab", "--id", "one", env=site)
    assert again.returncode == 0 and "nothing new was sent" in again.stderr
    other = heliostat("submit", job, "--set", "seed=9", "--to", "lab", "--id", "one", env=site)
    assert other.returncode == 2 and "with another job file" in other.stderr
    state = json.loads(heliostat("status", "small/one", "--json", env=site).stdout)
    assert state["status"] == "SUCCEEDED" and state["attempt"] == 1
    logs = heliostat("logs", "small/one", env=site).stdout
    assert logs.count("report    ") == 1
    assert heliostat("stop", "small/one", env=site).stdout.endswith(
        "has ended already: SUCCEEDED\n"
    )


def test_the_data_phase_is_a_step_of_its_own(heliostat, make_job, site, ray_head, tmp_path):
    job = make_job()
    done = heliostat("prepare", job, "--to", "lab", "--id", "data", "--wait", env=site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small/data\n") and "prepared/" in done.stdout
    state = json.loads(heliostat("status", "small/data", "--json", env=site).stdout)
    assert state["status"] == "SUCCEEDED"
    again = heliostat("prepare", job, "--to", "lab", "--id", "data", env=site)
    assert "nothing new was sent" in again.stderr
    # A cluster that the job writes out is one of the site file without a name.
    written = f"cluster={{address: '{ray_head.dashboard}', token_file: '{tmp_path}/token'}}"
    ran = heliostat("submit", job, "--set", written, "--id", "after", "--wait", env=site)
    assert ran.returncode == 0 and "rows found prepared" in ran.stdout
    sent = find_sent(Storage.open(str(tmp_path / "s")), "small/after")
    assert sent is not None and sent.cluster == load_job(job, settings=[written]).spec.cluster
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: {source: nowhere}\n")
    failed = heliostat("prepare", job, broken, "--to", "lab", "--wait", env=site)
    assert failed.returncode == 1 and "no such file" in failed.stdout


def test_a_stop_commits_a_checkpoint_first(heliostat, make_job, site, tmp_path):
    job = make_job(
        model="model: {kind: mlp, hidden: [64]}", train="train: {epochs: 4000, batch_size: 64}"
    )
    done = heliostat("submit", job, "--to", "lab", "--id", "long", env=site)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "committed step" not in heliostat("logs", "small/long", env=site).stdout:
        assert time.monotonic() < deadline
        threading.Event().wait(0.5)
    heliostat("stop", "small/long", env=site)
    done = heliostat("logs", "-f", "small/long", env=site)
    assert done.returncode == 3, done.stdout[-2000:]
    assert "stopped at step" in done.stderr
    assert "STOPPED" in heliostat("status", "small/long", env=site).stdout
    check_sent_again(job, "lab", "long", heliostat, site)


def test_own_code_too_large_for_ray_goes_by_the_storage(heliostat, make_job, site, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "net.py").write_text(
        "import json, pathlib, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "        bias = json.loads(pathlib.Path(__file__).with_name('net.json').read_text())\n"
        "        self.head = torch.nn.Linear(shape.num_numbers, shape.num_outputs, bias=bias)\n"
        "    def forward(self, numbers, categories):\n"
        "        return self.head(numbers)\n"
    )
    (own / "net.json").write_text("false")
    (own / "table.bin").write_bytes(bytes(101 * 2**20))
    job = make_job(
        code="code: {path: own, include: ['*.json', 'table.bin']}",
        model="model: {kind: custom, class: 'net:Net'}",
        train="train: {epochs: 1, batch_size: 64}",
    )  # fmt: skip
    done = heliostat("submit", job, "--to", "lab", "--id", "large", "--wait", env=site)
    assert done.returncode == 0, done.stderr + done.stdout
    [archive] = (tmp_path / "s" / "code").glob("*.zip")
    rendered = json.loads(heliostat("render", job, "--to", "lab", env=site).stdout)
    assert rendered["runtime_env"]["working_dir"]["job.json"]["code"]["path"] == str(archive)
    (own / "table.bin").unlink()
    done = heliostat("submit", job, "--to", "lab", "--id", "small", env=site)
    assert done.returncode == 2 and "is called `table.bin`" in done.stderr
    small = job, "--to", "lab", "--set", "code.include=['*.json']", "--id", "small"
    done = heliostat("submit", *small, "--wait", env=site)
    assert done.returncode == 0 and len(list((tmp_path / "s" / "code").iterdir())) == 1
    kept = tmp_path / "s" / "runs" / "small" / "small" / "model" / "code"
    assert sorted(path.name for path in kept.iterdir()) == ["net.json", "net.py"]


class Gateway:
    """A way to a dashboard that can be closed and opened again."""

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target, self._is_open = (host, int(port)), threading.Event()
        self._pairs: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._is_open.set()
        self.num_cuts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Cut what is open; what comes is cut too."""
        self._is_open.clear()
        self.num_cuts += 1
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let through what comes."""
        self._is_open.set()

    def end(self) -> None:
        """For good."""
        self.close()
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                if not self._is_open.is_set():
                    caller.close()
                    continue
                answerer = socket.create_connection(self._target)
                self._pairs += [caller, answerer]
                for pair in ((caller, answerer), (answerer, caller)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65_536):
                sink.sendall(content)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize("returns", [True, False])
def test_a_job_is_followed_through_a_cut(
    heliostat, make_job, site, ray_head, tmp_path, monkeypatch, returns
):
    gateway = Gateway(ray_head.dashboard)
    path = tmp_path / "site.yaml"
    path.write_text(path.read_text().replace(ray_head.dashboard, gateway.address, 1))
    for key, value in site.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(ray_job, "RECONNECT_SECONDS", 60.0 if returns else 0.5)
    train = "train: {epochs: 4000, batch_size: 64, validate_every: 40}"
    job = make_job(model="model: {kind: mlp, hidden: [64]}", train=train)
    assert heliostat("submit", job, "--to", "lab", "--id", "cut", env=site).returncode == 0
    storage = Storage.open(str(tmp_path / "s"))
    view = find_run(storage, read_site(), "small/cut")
    assert view.folder is None  # so that its cluster is asked
    lines = []
    for line in view.lines(follow=True):
        lines.append(line)
        if line.startswith("valid") and not gateway.num_cuts:
            gateway.close()
            if returns:
                threading.Timer(2.0, gateway.open).start()
        if gateway.num_cuts and sum(line.startswith("valid") for line in lines) == 12:
            assert heliostat("stop", "small/cut", env=site).returncode == 0
    gateway.end()
    told = [row["line"] for row in read_rows(storage.find("small/cut").logs)]
    assert any("committed" in line for line in told)
    assert [lines.count(line) for line in set(told)] == [told.count(line) for line in set(told)]


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        ("stranger", 1, "refuses our token"),
        ("gone", 1, "no Ray cluster answers at http://127.0.0.1:9"),
        ("lap", 2, "no cluster `lap`; did you mean `lab`?"),
    ],
)
def test_clusters_that_cannot_be_used_say_why(heliostat, make_job, site, target, status, sentence):
    done = heliostat("submit", make_job(), "--to", target, env=site)
    assert done.returncode == status and sentence in done.stderr and done.stdout == ""


def test_a_wrong_job_is_never_sent(heliostat, make_job, site):
    done = heliostat(
        "submit", make_job(), "--to", "lab", "--set", "track.mlflow=http://x", env=site
    )
    assert done.returncode == 2 and "not available yet" in done.stderr


def test_plain_ray_job_submit_runs_the_same_file(make_job, ray_head, tmp_path):
    job = make_job(storage=f"storage: {tmp_path}/s")
    done = plain_ray_job_submit(ray_head, "--", str(job), "--id", "plain")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "s" / "runs" / "small" / "plain" / "result.json").exists()


def test_a_run_is_not_left_where_nobody_finds_it(heliostat, make_job, site, ray_head, tmp_path):
    nowhere = {"HELIOSTAT_SITE": str(tmp_path / "other.yaml")}
    (tmp_path / "other.yaml").write_text((tmp_path / "site.yaml").read_text().partition("\n")[2])
    for verb in ("plan", "submit", "render"):
        done = heliostat(verb, make_job(), "--to", "lab", env=nowhere)
        assert done.returncode == 2 and done.stdout == ""
        assert "`runs` is a folder of this machine, which the nodes do not see" in done.stderr
    # Ray's own command brings a working directory with the job file, which is gone after the job.
    (tmp_path / "brought").mkdir()
    make_job().rename(tmp_path / "brought" / "job.yaml")
    done = plain_ray_job_submit(
        ray_head, "--working-dir", str(tmp_path / "brought"), "--", "job.yaml"
    )
    assert done.returncode != 0 and "which Ray removes after the job" in done.stdout


def plain_ray_job_submit(ray_head, *words):
    """`heliostat run` by Ray's own command."""
    at = words.index("--") + 1
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", ray_head.dashboard,
         *words[:at], sys.executable, "-m", "heliostat", "run", *words[at:]],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
