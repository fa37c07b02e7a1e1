"""A model cut over workers by the public command, on either kind of worker group."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from heliostat.storage.segments import read_rows

pytestmark = pytest.mark.slow

PARTS = {
    "model": "model: {kind: tabular_transformer, d_model: 16, nhead: 2, dropout: 0.2}",
    "train": "train: {epochs: 2, batch_size: 120, optimizer: {learning_rate: 0.01}}",
}


@pytest.mark.parametrize("cut", ["shard", "pipeline"])
def test_ray_train_and_the_actors_of_a_trial_train_what_one_worker_trains(
    heliostat, make_job, tmp_path, ray_head, cut
):
    def run(name: str, *settings: str) -> dict:
        more = [part for setting in settings for part in ("--set", setting)]
        done = heliostat(
            "run", job, "--id", name, "--json", "--set", f"storage={tmp_path}/s", *more,
            "--address", ray_head.address,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def weights(name: str) -> dict[str, np.ndarray]:
        return load_file(tmp_path / "s" / "runs" / "small" / name / "model" / "weights.safetensors")

    job = make_job(**PARTS)
    two = ("scale.workers=2", f"scale.parallel.{cut}=2")
    alone, by_ray_train = run("alone"), run("ray-train", *two)
    grid = "tune={search: grid, space: {train.optimizer.learning_rate: [0.01]}}"
    by_actors = run("actors", *two, grid)

    def losses(name: str) -> list[float]:
        rows = read_rows(tmp_path / "s" / "runs" / "small" / name / "metrics")
        return [row["train/loss"] for row in rows if "train/loss" in row]

    assert len(losses("alone")) == 14
    np.testing.assert_allclose(losses("ray-train"), losses("alone"), rtol=1e-4)
    for name, result in (("ray-train", by_ray_train), ("actors", by_actors)):
        expected = pytest.approx(alone["metrics"]["validation"]["auc"], abs=1e-3)
        assert result["metrics"]["validation"]["auc"] == expected
        for key, values in weights("alone").items():
            room = 1e-3 * max(np.abs(values).max(), 0.1)
            assert np.abs(weights(name)[key] - values).max() <= room, (name, key)
