"""The way of a job through a Kubernetes API server: real `kubectl`, the real client, a real run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from heliostat.launch.kube import KubeStatus
from heliostat.launch.rayjob import object_name
from tests.conftest import PATIENCE_SECONDS
from tests.launch.crds import FOLDER
from tests.launch.kube_server import kube_server

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl here")
SITE = {
    "image": "heliostat:test", "namespace": "ml",
    "groups": [{"name": "cpu", "replicas": 2, "cpu": 4.0, "memory": "8Gi"}],
}  # fmt: skip


@pytest.fixture
def server(tmp_path, ray_head, monkeypatch):
    with kube_server(tmp_path, ray_head.dashboard, ray_head.token) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


@pytest.fixture
def site(tmp_path, server):
    (tmp_path / "site.yaml").write_text(
        json.dumps({"storage": f"{tmp_path}/s", "clusters": {"kube": {"kuberay": SITE}}})
    )
    return {"HELIOSTAT_SITE": str(tmp_path / "site.yaml"), "KUBECONFIG": str(server.kubeconfig)}


def kubectl(server, *arguments: str) -> str:
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={server.kubeconfig}", "--user=admin", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@needs_kubectl
def test_a_job_runs_and_kubectl_sees_it(heliostat, make_job, site, server, tmp_path):
    job = make_job()
    done = heliostat("submit", job, "--to", "kube", "--id", "one", env=site)
    assert done.returncode == 0, done.stderr
    assert "heliostat logs -f small/one" in done.stderr
    name = json.loads(kubectl(server, "get", "rayjob", "-o", "json"))["items"][0]["metadata"][
        "name"
    ]
    kubectl(server, "wait", f"rayjob/{name}", "--timeout=100s",
            "--for=jsonpath={.status.jobDeploymentStatus}=Complete")  # fmt: skip
    followed = heliostat("logs", "-f", "small/one", env=site)
    assert followed.returncode == 0 and followed.stdout.count("report    ") == 1, followed.stderr
    state = json.loads(heliostat("status", "small/one", "--json", env=site).stdout)
    assert state["status"] == "SUCCEEDED"
    again = heliostat("submit", job, "--to", "kube", "--id", "one", "--wait", env=site)
    assert again.returncode == 0 and "nothing new was sent" in again.stderr
    kubectl(server, "delete", "rayjob", name)
    assert ("v1", "configmaps", "ml", name) not in server.api.objects  # gone with its owner
    state = json.loads(heliostat("status", "small/one", "--json", env=site).stdout)
    assert state["status"] == "SUCCEEDED"  # from storage


def test_own_code_is_fetched_from_the_storage_and_verified(heliostat, make_job, site, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "        self.head = torch.nn.Linear(shape.num_numbers, shape.num_outputs)\n"
        "    def forward(self, numbers, categories):\n"
        "        return self.head(numbers)\n"
    )
    job = make_job(
        code="code: {path: own}", model="model: {kind: custom, class: 'net:Net'}",
        train="train: {epochs: 1, batch_size: 64}",
    )  # fmt: skip
    done = heliostat("submit", job, "--to", "kube", "--id", "own", "--wait", env=site)
    assert done.returncode == 0, done.stderr + done.stdout
    # Whichever state is the first that is seen: the operator does not wait for us to look.
    assert done.stdout.index("kuberay   ") < done.stdout.index("report    ")
    [archive] = (tmp_path / "s" / "code").glob("*.zip")
    archive.write_bytes(archive.read_bytes() + b"!")
    done = heliostat("submit", job, "--to", "kube", "--id", "changed", "--wait", env=site)
    assert done.returncode not in (0, 3) and "is not what was sent" in done.stdout, done.stderr


def test_a_running_job_stops_after_a_checkpoint_and_a_waiting_one_is_withdrawn(
    heliostat, make_job, site, server, tmp_path
):
    job = make_job(
        model="model: {kind: mlp, hidden: [256, 256]}",
        train="train: {epochs: 3000, batch_size: 64}",
    )
    assert heliostat("submit", job, "--to", "kube", "--id", "long", env=site).returncode == 0
    folder = tmp_path / "s" / "runs" / "small" / "long"
    wait_until(lambda: any((folder / "metrics").glob("*.jsonl")))
    assert "commit a checkpoint and stop" in heliostat("stop", "small/long", env=site).stdout
    ended = heliostat("logs", "-f", "small/long", env=site)
    assert ended.returncode == 3 and any((folder / "checkpoints").glob("step-*"))
    check_sent_again(job, "kube", "long", heliostat, site)
    server.operator.held = True
    assert heliostat("submit", job, "--to", "kube", "--id", "queued", env=site).returncode == 0
    wait_until(lambda: "PENDING" in heliostat("status", "small/queued", env=site).stdout)
    assert "it is withdrawn" in heliostat("stop", "small/queued", env=site).stdout
    names = {key[3] for key in server.api.objects if key[1] == "rayjobs"}
    assert names == {object_name("small", "long")}
    assert "UNKNOWN" in heliostat("status", "small/queued", env=site).stdout


def test_a_wrong_token_a_foreign_object_and_a_refused_one_get_a_sentence(
    heliostat, make_job, site, server, tmp_path
):
    job = make_job()
    server.operator.held = True
    assert heliostat("submit", job, "--to", "kube", "--id", "one", env=site).returncode == 0
    [(key, value)] = [(k, v) for k, v in server.api.objects.items() if k[1] == "rayjobs"]
    value["metadata"]["annotations"]["heliostat/run"] = "other/run"
    foreign = heliostat("submit", job, "--to", "kube", "--id", "one", env=site)
    assert foreign.returncode == 2 and "belongs to other/run" in foreign.stderr
    if FOLDER:
        patched = SITE | {"pod_patch": {"spec": {"noSuchField": 1}}}
        (tmp_path / "site.yaml").write_text(
            json.dumps({"storage": f"{tmp_path}/s", "clusters": {"kube": {"kuberay": patched}}})
        )
        refused = heliostat("submit", job, "--to", "kube", "--id", "two", env=site)
        assert refused.returncode == 2 and "unknown field" in refused.stderr
    server.write_config("wrong")
    stranger = heliostat("submit", job, "--to", "kube", "--id", "three", env=site)
    assert stranger.returncode == 5 or stranger.returncode == 1, stranger.returncode
    assert "does not know us (401)" in stranger.stderr


@pytest.mark.parametrize(
    ("pair", "state"),
    [
        (("", ""), "PENDING"),
        (("Initializing", ""), "PENDING"),
        (("Running", "PENDING"), "RUNNING"),
        (("Failed", "RUNNING"), "FAILED"),  # the operator's own deadline: Ray's word is frozen
        (("ValidationFailed", ""), "FAILED"),
        (("Complete", "SUCCEEDED"), "SUCCEEDED"),
        (("Complete", "STOPPED"), "STOPPED"),
        (("Complete", ""), "UNKNOWN"),
        (("Suspended", ""), "PENDING"),
        (("Retrying", "FAILED"), "PENDING"),
    ],
)
def test_the_pair_decides(pair, state):
    assert KubeStatus(*pair).state == state


def check_sent_again(job, target: str, name: str, heliostat, site) -> None:
    """Sent again, a stopped run's id goes on where it was, and who waits for it sees that."""
    waits = subprocess.Popen(
        [sys.executable, "-m", "heliostat", "submit", str(job), "--to", target, "--id", name, "--wait"],
        env=os.environ | site, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    told: list[str] = []

    def read() -> None:
        for line in waits.stdout:
            told.append(line)

    def is_resumed() -> bool:
        return any("resumed at step" in line for line in told) or waits.poll() is not None

    reading = threading.Thread(target=read)
    reading.start()
    wait_until(is_resumed)
    state = json.loads(heliostat("status", f"small/{name}", "--json", env=site).stdout)
    assert (state["status"], state["attempt"]) == ("RUNNING", 2)
    heliostat("stop", f"small/{name}", env=site)
    assert waits.wait(PATIENCE_SECONDS) == 3
    reading.join(PATIENCE_SECONDS)
    assert "resumed at step" in "".join(told)


def wait_until(found) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not found():
        assert time.monotonic() < deadline
        threading.Event().wait(0.3)
