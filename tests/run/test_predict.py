"""A finished run, in fresh processes, from `model/` alone."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

NETWORK = {
    "model": "model: {kind: mlp, hidden: [8]}",
    "train": "train: {epochs: 3, batch_size: 64, optimizer: {learning_rate: 0.01}}",
}


@pytest.mark.parametrize(
    ("target", "task", "parts"),
    [
        ("late", "binary", NETWORK),
        ("kind", "multiclass", {}),
        ("amount", "regression", {"model": "model: {kind: linear}", "train": ""}),
    ],
)
def test_predictions_agree_with_training(
    heliostat, make_job, table, tmp_path, ray_head, target, task, parts
):
    env = {"RAY_ADDRESS": ray_head.address}
    data = f"data:\n  source: {table}\n  target: {target}\n  task: {task}\n"
    data += "  features: {x: number, z: number, color: category}\n  weight: count\n"
    data += "  split: {method: random, validation: 0, test: 0}"
    job = make_job(data=data, **parts)
    done = heliostat("run", job, "--set", f"storage={tmp_path}/s", "--json", env=env)
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout)["metrics"]["train"]
    model = shutil.copytree(
        tmp_path / "s" / "runs" / json.loads(done.stdout)["run"] / "model", tmp_path / "model"
    )
    shutil.rmtree(tmp_path / "s")  # nothing of the run is left
    done = heliostat(
        "evaluate", model, "--data", table, "--json", "--storage", tmp_path / "s2", env=env
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == trained  # the same rows: the same bits

    # On the cluster, whose processes have a folder of their own; then in one process, without Ray.
    arguments = ("predict", model, "--data", os.path.relpath(table, tmp_path), "--json")
    on_cluster = heliostat(*arguments, "--out", "out", env=env, cwd=tmp_path)
    assert on_cluster.returncode == 0, on_cluster.stderr
    here = heliostat(*arguments, "--out", "here", env={"PYTHONVERBOSE": "1"}, cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    assert "import 'pyarrow'" in here.stderr and "import 'ray'" not in here.stderr
    assert json.loads(here.stdout) | {"out": "out"} == json.loads(on_cluster.stdout)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("out", "here")]
    assert files[0] == files[1] and files[0]
    for name in files[0]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    done = heliostat("evaluate", model, "--data", table, "--json")
    assert json.loads(done.stdout)["metrics"] == trained

    predicted, source = pq.read_table(tmp_path / "out"), pq.read_table(table)
    assert predicted.num_rows == source.num_rows
    assert predicted.select(source.column_names).equals(source)
    assert predicted["prediction"].type == source[target].type
    if task != "regression":
        pairs = zip(predicted["prediction"].to_pylist(), source[target].to_pylist(), strict=True)
        hits = np.array([a == b for a, b in pairs])
        weighted = np.average(hits, weights=source["count"])
        assert weighted == pytest.approx(trained["accuracy"])
    done = heliostat("predict", model, "--data", table, "--out", tmp_path / "out", env=env)
    assert done.returncode == 2 and "exists; name a new folder" in done.stderr


CODE = """
import torch
class Net(torch.nn.Module):
    def __init__(self, shape, scale=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(shape.num_numbers, shape.num_outputs)
        self.scale = scale
    def forward(self, numbers, categories):
        return self.layer(numbers) * self.scale
"""


def test_own_code_is_kept_with_the_model_and_an_edit_is_another_trial(
    heliostat, make_job, table, tmp_path, ray_head
):
    env = {"RAY_ADDRESS": ray_head.address}
    (tmp_path / "own" / "mine").mkdir(parents=True)
    (tmp_path / "own" / "mine" / "net.py").write_text(CODE)
    job = make_job(
        code="code: {path: own}", model='model: {kind: custom, class: "mine.net:Net", args: {scale: 2.0}}',
        train="train: {epochs: 2, batch_size: 128}",
        tune="tune: {search: grid, space: {train.optimizer.learning_rate: [0.01, 0.02]}}",
    )  # fmt: skip
    arguments = ("run", job, "--set", f"storage={tmp_path}/s", "--json")
    first = json.loads(heliostat(*arguments, env=env).stdout)
    assert first["trials"] == {"run": 2, "reused": 0}
    assert json.loads(heliostat(*arguments, env=env).stdout)["trials"] == {"run": 0, "reused": 2}
    (tmp_path / "own" / "mine" / "net.py").write_text(CODE + "# edited\n")
    edited = json.loads(heliostat(*arguments, env=env).stdout)
    assert edited["trials"] == {"run": 2, "reused": 0}
    assert edited["digests"]["code"] != first["digests"]["code"]
    shutil.rmtree(tmp_path / "own")
    model = tmp_path / "s" / "runs" / first["run"] / "model"
    assert (model / "code" / "mine" / "net.py").read_text() == CODE
    done = heliostat("evaluate", model, "--data", table, env=env)
    assert done.returncode == 0, done.stderr
    (model / "code" / "mine" / "net.py").write_text(CODE + "# changed after training\n")
    done = heliostat("evaluate", model, "--data", table, env=env)
    assert done.returncode == 1 and "has changed since the model was trained" in done.stderr


def test_texts_are_learned_as_tokens_that_the_model_keeps(
    heliostat, make_job, tokenizer, tmp_path, ray_head
):
    env = {"RAY_ADDRESS": ray_head.address}
    rng = np.random.default_rng(0)
    late = rng.random(800) < 0.5
    texts = [" ".join(rng.permutation(["a", "on", "late" if y else "time"])) for y in late]
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": texts, "late": late}), tmp_path / "texts" / "a.parquet")
    shutil.copytree(tokenizer, tmp_path / "own")
    job = make_job(
        data=f"data:\n  source: {tmp_path}/texts\n  target: late\n  task: binary\n"
        "  features: {text: {type: text, tokenizer: own, max_tokens: 8}}\n",
        model="model: {kind: mlp, hidden: [8]}",
        train="train: {epochs: 20, batch_size: 64, optimizer: {learning_rate: 0.02}}",
    )
    done = heliostat("run", job, "--set", f"storage={tmp_path}/s", "--json", env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["test"]["auc"] > 0.99
    model = shutil.copytree(tmp_path / "s" / "runs" / result["run"] / "model", tmp_path / "model")
    for folder in ("s", "own"):
        shutil.rmtree(tmp_path / folder)
    scored = heliostat("evaluate", model, "--data", tmp_path / "texts", "--json", env=env)
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["metrics"]["auc"] > 0.99
