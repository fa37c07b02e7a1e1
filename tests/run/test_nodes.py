"""A cluster of three nodes: jobs really run across them, and say where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from local import with_cluster

from tests.conftest import ROOT, TOKEN

pytestmark = pytest.mark.slow
NETWORK = {
    "model": "model: {kind: mlp, hidden: [16], dropout: 0.2}",
    "train": "train: {epochs: 2, batch_size: 120, optimizer: {learning_rate: 0.01}}",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with with_cluster(folder, TOKEN, nodes=2, cpus=2) as cluster:
        yield cluster


@pytest.fixture
def site(cluster, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "site.yaml").write_text(
        f"storage: {tmp_path}/s\nclusters:\n"
        f"  three: {{address: '{cluster.dashboard}', token_file: '{tmp_path}/token',"
        " price_per_hour: 0.5}\n"
    )
    return {"HELIOSTAT_SITE": str(tmp_path / "site.yaml")}


def submit(heliostat, job, name: str, site: dict, *settings: str) -> dict:
    more = [part for setting in settings for part in ("--set", setting)]
    done = heliostat("submit", job, "--to", "three", "--id", name, "--wait", *more, env=site)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(heliostat("status", f"small/{name}", "--json", env=site).stdout)


def test_ranks_trials_and_shards_are_on_several_nodes(heliostat, make_job, site, tmp_path):
    job = make_job(**NETWORK)
    told = heliostat("plan", job, "--to", "three", env=site).stdout
    assert "placement 1 worker in all = 1 on " in told and "0.50 an hour" in told
    four = ("plan", job, "--to", "three", "--set")
    told = heliostat(*four, "scale.workers=4", "--set", "limits.hours=3", env=site).stdout
    assert "at most 2.00 an hour, 6.00 in `limits.hours`" in told
    assert "placement 4 workers in all = 2 on " in told and " + 2 on " in told
    refused = heliostat(*four, "scale.workers=5", env=site)
    assert refused.returncode == 2 and "its nodes hold 4 of 5 workers: " in refused.stderr
    scores = []
    for name, settings in {
        "data": ("scale.workers=4",),
        "shard": ("scale.workers=4", "scale.parallel.shard=2"),
        "alone": ("scale.workers=1",),
    }.items():
        state = submit(heliostat, job, name, site, *settings)
        places = state["placement"]
        assert list(places) == [str(rank) for rank in range(4 if name != "alone" else 1)]
        assert len(set(places.values())) == (2 if name != "alone" else 1)
        assert state["hours"]["cost"] > 0
        result = json.loads((tmp_path / "s" / "runs" / "small" / name / "result.json").read_text())
        scores.append(result["metrics"]["test"]["auc"])
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-3)
    grid = "tune={search: grid, space: {train.optimizer.learning_rate: [0.01, 0.02, 0.03]}}"
    state = submit(heliostat, job, "sweep", site, grid)
    assert state["status"] == "SUCCEEDED"
    shown = heliostat("status", "small/shard", env=site).stdout
    assert shown.count("rank ") == 4 and "money" in shown


def test_our_numbers_are_on_the_metrics_endpoint(heliostat, make_job, site, cluster):
    job = make_job(
        model="model: {kind: mlp, hidden: [8]}", train="train: {epochs: 4000, batch_size: 60}"
    )
    sent = heliostat("submit", job, "--to", "three", "--id", "gauged", env=site)
    assert sent.returncode == 0, sent.stderr
    wanted = {f"ray_heliostat_{name}" for name in ("rows_per_second", "step_seconds", "train_loss")}
    deadline, found = time.monotonic() + 120, set()
    while not wanted <= found:
        assert time.monotonic() < deadline, found
        threading.Event().wait(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.metrics_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        found = {line.partition("{")[0] for line in lines if 'run="small/gauged"' in line}
    assert "will commit a checkpoint" in heliostat("stop", "small/gauged", env=site).stdout
    assert heliostat("logs", "-f", "small/gauged", env=site).returncode == 3


def test_the_end_of_a_run_is_told_once(heliostat, make_job, tmp_path, cluster):
    bodies: list[dict] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the test's terminal."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {"HELIOSTAT_WEBHOOK": f"http://127.0.0.1:{server.server_address[1]}/secret-path"}
    job = make_job(model="model: {kind: linear}", train="")
    try:
        done = heliostat(
            "run", job, "--id", "told", "--set", f"storage={tmp_path}/s",
            "--address", cluster.address, env=env,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0 and "secret-path" not in done.stdout + done.stderr, done.stderr
    assert [(body["run"], body["status"]) for body in bodies] == [("small/told", "SUCCEEDED")]


@pytest.mark.parametrize("storage_folder", ["object store"], indirect=True)
def test_a_prepared_copy_is_on_the_other_nodes_before_their_workers_ask(
    heliostat, make_job, storage_folder, tmp_path
):
    """Each node keeps a cache of its own; nothing runs on the far one but what fetches ahead."""
    job = make_job(model="model: {kind: linear}", train="")
    (tmp_path / "nodes").mkdir()
    with with_cluster(tmp_path / "nodes", TOKEN, head_cpus=2) as cluster:
        cluster.start_node(0, HELIOSTAT_CACHE=str(tmp_path / "far-cache"))
        done = heliostat("run", job, "--id", "far", "--set", f"storage={storage_folder}",
                         "--address", cluster.address)  # fmt: skip
        assert done.returncode == 0, done.stderr
        copies = [path for path in (tmp_path / "far-cache").glob("*") if path.is_dir()]
        assert any((copy / "manifest.json").exists() for copy in copies)


def test_a_new_user_s_way_from_a_started_cluster_to_one_that_is_gone(heliostat, make_job, tmp_path):
    script = subprocess.Popen(
        [sys.executable, str(ROOT / "cluster" / "local.py"), "--nodes", "1", "--cpus", "1"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert script.stdout is not None
    lines = [script.stdout.readline() for _ in range(5)]
    assert "2 nodes are up" in lines[0] and "/metrics" in lines[-1]
    [token] = tmp_path.glob("heliostat-cluster-*/token")
    assert token.stat().st_mode & 0o777 == 0o600
    (tmp_path / "site.yaml").write_text("".join(lines))  # as it is printed
    site = {"HELIOSTAT_SITE": str(tmp_path / "site.yaml")}
    grid = "tune={search: grid, space: {model.max_depth: [2, 3]}}"
    done = heliostat("submit", make_job(), "--to", "local", "--wait", "--set", grid, env=site)
    assert done.returncode == 0 and "trial 2/2" in done.stdout, done.stderr
    assert list((tmp_path / "runs" / "runs" / "small").glob("*/result.json"))
    script.send_signal(signal.SIGTERM)
    assert script.wait(60) == 0
    shown = heliostat("status", "small", env=site)
    assert shown.returncode == 0 and "SUCCEEDED" in shown.stdout
    assert "trial 2/2" in heliostat("logs", "-f", "small", env=site).stdout
