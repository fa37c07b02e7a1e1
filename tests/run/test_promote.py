"""A name for a model: MODEL@ALIAS stands for a run, and moves to a better one only."""

from __future__ import annotations

import json

import pyarrow.parquet as pq


def test_a_better_run_takes_the_name_and_a_worse_one_does_not(
    heliostat, make_job, table, tmp_path, ray_head
):
    env = {"RAY_ADDRESS": ray_head.address}
    storage = ("--storage", tmp_path / "s")
    network = {
        "model": "model: {kind: mlp, hidden: [8]}",
        "train": "train: {epochs: 1, batch_size: 64}",
    }

    def run(name: str, job, *settings: str) -> None:
        more = [part for setting in settings for part in ("--set", setting)]
        done = heliostat("run", job, "--id", name, "--set", f"storage={tmp_path}/s", *more, env=env)
        assert done.returncode == 0, done.stderr

    def promote(run: str, *options: str):
        return heliostat("promote", run, "small@best", "--json", *options, *storage)

    job = make_job(**network)
    run("weak", job)
    run("strong", job, "train.epochs=8", "train.optimizer.learning_rate=0.02")
    assert heliostat("status", "small@best", *storage).returncode == 2  # nothing has that name
    told = json.loads(promote("small/weak", "--if-better").stdout)
    assert told == {"promoted": True, "reason": "small@best is small/weak now"}
    told = json.loads(promote("small/strong", "--if-better").stdout)
    assert told["promoted"] and "is better than" in told["reason"]
    told = json.loads(promote("small/weak", "--if-better").stdout)
    assert not told["promoted"] and told["reason"].startswith("small@best stays small/strong")
    state = json.loads(heliostat("status", "small@best", "--json", *storage).stdout)
    assert state["run"] == "small/strong"
    done = heliostat("predict", "small@best", "--data", table, "--out", tmp_path / "o", *storage,
                     env=env)  # fmt: skip
    assert done.returncode == 0 and pq.read_table(tmp_path / "o").num_rows == 1200, done.stderr
    # Training begins from what had the name when it began.
    run("tuned", job, "model.init_from=small@best")
    text = (tmp_path / "s" / "runs" / "small" / "tuned" / "job.yaml").read_text()
    assert "small/strong/model" in text
    value = json.loads((tmp_path / "s" / "models" / "small" / "best.json").read_text())
    assert [entry["run"] for entry in value["before"]] == ["small/weak"]
    run("other", job, "objective=accuracy")
    assert "was chosen by max accuracy" in promote("small/other", "--if-better").stderr
    assert promote("small/other").returncode == 0
    # What has no score is better than nothing that has the name, not even where nobody has it.
    place = tmp_path / "s" / "runs" / "small" / "weak" / "result.json"
    result = json.loads(place.read_text())
    result["metrics"]["validation"]["auc"] = None
    place.write_text(json.dumps(result))
    for name in ("small@new", "small@best"):
        refused = heliostat("promote", "small/weak", name, "--if-better", *storage)
        assert refused.returncode == 2, refused.stdout
    assert not (tmp_path / "s" / "models" / "small" / "new.json").exists()
    wrong = heliostat("promote", "small/weak", "Small best", *storage)
    assert wrong.returncode == 2 and "must be MODEL@ALIAS" in wrong.stderr
