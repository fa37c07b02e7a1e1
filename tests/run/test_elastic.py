"""Losing and regaining workers: the same global batches, the same losses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from local import LocalCluster, with_cluster

from heliostat.storage.segments import read_rows
from tests.conftest import PATIENCE_SECONDS, TOKEN, job_text

pytestmark = pytest.mark.slow

SLOW_NET = """
import time
import torch
class Net(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = torch.nn.Linear(shape.num_numbers, 8)
        self.head = torch.nn.Linear(8, shape.num_outputs)
    def forward(self, numbers, categories):
        if self.training:
            time.sleep(0.05)
        return self.head(torch.tanh(self.layer(numbers)))
"""


NODE_OF = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print(*[node["NodeID"] for node in ray.nodes() if sys.argv[2] in node["Resources"]])
"""


def drain(cluster: LocalCluster, resource: str, seconds: int) -> None:
    """Tell the node that has a resource that it will be taken away."""
    environment = os.environ | {"RAY_AUTH_TOKEN": TOKEN}
    found = subprocess.run(
        [sys.executable, "-c", NODE_OF, cluster.address, resource],
        check=True, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    subprocess.run(
        [
            sys.executable, "-m", "ray.scripts.scripts", "drain-node",
            f"--address={cluster.address}", f"--node-id={found.stdout.split()[-1]}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
            f"--deadline-remaining-seconds={seconds}",
        ],
        check=True, env=environment, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def cluster(tmp_path):
    with with_cluster(tmp_path, TOKEN, head_cpus=1) as cluster:
        yield cluster


def slow_job(folder: Path, table: Path, steps: int, every: int, scale: str) -> Path:
    """A job of a network that takes its time, validated `every` so many steps."""
    (folder / "own").mkdir()
    (folder / "own" / "net.py").write_text(SLOW_NET)
    job = folder / "job.yaml"
    job.write_text(
        job_text(
            table, code="code: {path: own}", model="model: {kind: custom, class: 'net:Net'}",
            train=f"train: {{steps: {steps}, batch_size: 64, validate_every: {every}}}",
            scale=scale, storage=f"storage: {folder}/s",
        )
    )  # fmt: skip
    return job


@pytest.mark.parametrize("unit", [1, 2])
def test_a_lost_node_and_a_new_one_change_neither_batches_nor_losses(
    cluster, table, tmp_path, heliostat, ray_head, unit
):
    """Of a model that two ranks hold together, whole replicas come and go."""
    job = slow_job(
        tmp_path, table, 900, 300,
        f"scale: {{workers: {{min: {unit}, max: {2 * unit}}},\n"
        f"  parallel: {{shard: {unit}}}, checkpoint: {{every_steps: 30}}}}",
    )  # fmt: skip
    folder = tmp_path / "s" / "runs" / "small" / "elastic"

    def lines() -> list[str]:
        return [row["line"] for row in read_rows(folder / "logs")]

    def wait_for(text: str, seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not any(text in line for line in lines()):
            assert time.monotonic() < deadline and run.poll() is None, (text, lines()[-5:])
            threading.Event().wait(0.2)

    def join(cpus: int) -> subprocess.Popen:
        return cluster.start_node(cpus)

    join(unit - 1)  # with the head's: room for one replica
    node = join(unit)
    run = subprocess.Popen(
        [sys.executable, "-m", "heliostat", "run", str(job), "--id", "elastic", "--address",
         cluster.address],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for("committed step 90")
    cluster.kill(node)
    wait_for(f"now {unit}, restart 1")
    wait_for("committed step 240")
    for _ in range(unit):
        join(1)
    wait_for(f"now {2 * unit}, restart 2")
    _, told = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, told
    undisturbed = heliostat(
        "run",
        job,
        "--id",
        "alone",
        "--set",
        "scale.workers=1",
        "--set",
        "scale.parallel.shard=1",
        "--address",
        ray_head.address,
    )
    assert undisturbed.returncode == 0, undisturbed.stderr

    def losses(name: str) -> dict[int, float]:
        rows = read_rows(folder.parent / name / "metrics")
        return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}

    elastic, alone = losses("elastic"), losses("alone")
    assert elastic.keys() == alone.keys() and len(alone) > 100
    np.testing.assert_allclose(list(elastic.values()), list(alone.values()), rtol=1e-4)


def test_a_notice_that_a_node_will_be_taken_away_is_a_checkpoint_and_no_failure(
    cluster, table, tmp_path
):
    scale = "scale: {workers: {min: 1, max: 2}}\nlimits: {failures: 0}"
    job = slow_job(tmp_path, table, 500, 500, scale)
    folder = tmp_path / "s" / "runs" / "small" / "spot"
    node = cluster.start_node(1, '--resources={"spot": 1}')
    run = subprocess.Popen(
        [sys.executable, "-m", "heliostat", "run", str(job), "--id", "spot", "--address",
         cluster.address],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def steps() -> list[int]:
        return [row["step"] for row in read_rows(folder / "metrics") if "train/loss" in row]

    def wait_until(found) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not found():
            assert time.monotonic() < deadline and run.poll() is None, run.communicate()
            threading.Event().wait(0.2)

    def committed() -> list[str]:
        lines = [row["line"] for row in read_rows(folder / "logs")]
        return [line for line in lines if "committed step" in line]

    wait_until(lambda: steps() and steps()[-1] > 40)
    assert not committed()  # the next one by the clock is minutes away
    drain(cluster, "spot", seconds=12)
    wait_until(committed)
    threading.Event().wait(12)
    cluster.kill(node)
    _, told = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, told
    seen = steps()
    assert seen == sorted(set(seen)) and seen[-1] == 500
