"""`clean` takes what is stale and nothing else; `plan --diff` names what changed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.storage.clean import find_stale
from heliostat.storage.lease import Lease
from heliostat.storage.runs import Storage


def aged(path: Path, days: float) -> None:
    when = time.time() - days * 86_400
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (when, when))


def test_a_run_leaves_what_clean_collects(heliostat, make_job, table, tmp_path, ray_head):
    env = {"RAY_ADDRESS": ray_head.address}
    job, root = (
        make_job(train="train: {rounds: 25}", scale="scale: {checkpoint: {every_steps: 20}}"),
        tmp_path / "s",
    )
    setting = f"storage={root}"
    done = heliostat("run", job, "--set", setting, "--id", "one", env=env)
    assert done.returncode == 0, done.stderr
    (copy,) = (root / "prepared").glob("*/manifest.json")
    killed = root / "prepared" / ".stage-0123"
    killed.mkdir()
    (killed / "shard.arrow").write_bytes(b"x" * 5000)
    outside = tmp_path / "prepared" / ".stage-outside"
    outside.mkdir(parents=True)
    assert find_stale(Storage(root), 86_400) == []

    aged(killed, 1)
    aged(outside, 99)
    dry = json.loads(heliostat("clean", "--storage", root, "--dry-run", "--json").stdout)
    assert [Path(found["path"]) for found in dry["found"]] == [killed] and dry["bytes"] == 5000
    assert killed.exists()

    aged(root, 40)
    lease = Lease.acquire(root / "prepared" / ".leases" / "0123")  # somebody goes on with it
    with lease.kept():
        done = heliostat("clean", "--storage", root)
    assert done.returncode == 0 and killed.exists() and not copy.exists()
    assert not (root / "runs" / "small" / "one" / "checkpoints").exists()
    assert heliostat("report", "small/one", "--storage", root).returncode == 0
    heliostat("clean", "--storage", root)
    assert not killed.exists() and outside.exists()
    assert heliostat("clean", "--storage", root, "--older-than", "soon").returncode == 2

    (tmp_path / "other").mkdir()
    changed = (
        pq.read_table(table).drop_columns(["when"]).append_column("new", pa.nulls(1200, pa.int8()))
    )
    changed = changed.set_column(2, "count", changed["count"].cast(pa.int8()))
    pq.write_table(changed, tmp_path / "other" / "a.parquet")
    done = heliostat(
        "plan", job, "--set", setting, "--set", "train.rounds=30",
        "--set", f"data.source={tmp_path}/other", "--diff", "small/one",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in (
        "train.rounds: 25 -> 30", "column `when` (timestamp[ms]) has gone",
        "column `new` (int8) is new", "column `count` was int64, is int8",
        "data files: 3 -> 1", "the source will be prepared again",
    ):  # fmt: skip
        assert line in done.stdout
    done = heliostat(
        "plan", job, "--set", setting, "--diff", "small/one",
    )  # fmt: skip
    assert done.stdout == "nothing differs from small/one\n"
