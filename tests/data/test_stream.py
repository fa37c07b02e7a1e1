"""Streamed batches: the same on any number of ranks, from any cursor, every row once an epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.data import windows as windows_module
from heliostat.data.fit import fit_encoder
from heliostat.data.sieve import Sieve
from heliostat.data.split import split_rows
from heliostat.data.stream import StreamBatches
from heliostat.data.windows import WindowOrder, WindowReader
from heliostat.errors import DataError, PlanError
from heliostat.plan import stream as stream_plan
from tests.conftest import PATIENCE_SECONDS, job_text
from tests.data.packing import plan_of, prepare_here

DATA = """data:
  source: SOURCE
  target: y
  task: binary
  ingest: stream
  weight: w
  features: {x: {type: number, missing: drop}, c: category}
  split: SPLIT
"""
MLP = {"model": "model: {kind: mlp, hidden: [4]}", "train": "train: {epochs: 2, batch_size: 50}"}
SPLITS = {
    "random": "{method: random, validation: 0.2, test: 0.1}",
    "hash": "{method: hash, column: k, validation: 0.2, test: 0.1}",
    "column": "{method: column, column: side}",
}


class Rank:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class HereBatches(StreamBatches):
    """As Ray Data's tasks would cut the windows, but in this process."""

    def _slices(self, first_batch):
        epoch, batch = divmod(first_batch, self.batches_per_epoch)
        for window in self._windows(epoch, batch * self.reader.batch_size):
            yield window, list(self.reader.slices(window))[self.world.rank]


def write(folder: Path, sizes: list[int], group_rows: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, n in enumerate(sizes):
        x = rng.normal(size=n)
        table = {
            "id": np.arange(n) + 100_000 * i, "x": pa.array(x, mask=rng.random(n) < 0.1),
            "c": rng.choice(["a", "b"], n), "k": rng.integers(0, 40, n).astype(str),
            "side": rng.choice(["train", "train", "validation", "test"], n),
            "w": rng.integers(1, 4, n).astype(float), "y": x > 0,
        }  # fmt: skip
        pq.write_table(pa.table(table), folder / f"{i}.parquet", row_group_size=group_rows)
    return folder


def opened(folder: Path, split: str, monkeypatch, batch_size: int):
    """The plan, its copy, and the reader of batches for a number of ranks."""
    job = folder / "job.yaml"
    data = DATA.replace("SOURCE", str(folder / "data")).replace("SPLIT", SPLITS[split])
    job.write_text(job_text(folder, data=data, **MLP))
    plan = plan_of(job)
    prepared = prepare_here(plan, folder / "prepared", monkeypatch)
    spec = plan.job.spec
    found = split_rows(prepared, plan.columns, spec.data, spec.seed)
    encoder, _ = fit_encoder(prepared, plan.columns, spec, found.sides["train"])
    sieve = Sieve(plan.columns, spec.data, spec.seed, prepared.stream.bounds)

    def batches(rank: int, size: int, num_batches: int) -> StreamBatches:
        order = WindowOrder(prepared.stream, spec.seed)
        reader = WindowReader(order, sieve, encoder, batch_size, size)
        return HereBatches(reader, Rank(rank, size), num_batches, 1.0)

    return plan, prepared, found, batches


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    group_rows=st.sampled_from([5, 20, 1000]),
    window_rows=st.sampled_from([10, 50, 10_000]),
    batch_size=st.sampled_from([4, 20, 999]),
    split=st.sampled_from(sorted(SPLITS)),
    cursor=st.floats(0, 0.99),
)
def test_any_number_of_ranks_sees_the_same_batches_from_any_cursor(
    tmp_path_factory, monkeypatch, sizes, group_rows, window_rows, batch_size, split, cursor
):
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setattr(windows_module, "WINDOW_ROWS", window_rows)
    monkeypatch.setattr(stream_plan, "SAMPLE_ROWS", 10_000)
    write(folder / "data", [120, *sizes], group_rows)
    plan, prepared, found, batches = opened(folder, split, monkeypatch, batch_size)
    facts = prepared.stream
    num_train = int(facts.train_rows.sum())
    held_out = len(found.sides["validation"]) + len(found.sides["test"])
    assert num_train + held_out + sum(facts.dropped.values()) == plan.catalog.num_rows
    per_epoch = -(-num_train // batch_size)
    whole = list(batches(0, 1, 2 * per_epoch)(0))
    rows = [np.concatenate([b.own.rows for b in whole[:per_epoch]])]
    rows.append(np.concatenate([b.own.rows for b in whole[per_epoch:]]))
    for epoch in rows:
        assert len(np.unique(epoch)) == len(epoch) == num_train
    assert num_train < 3 or not np.array_equal(*rows)
    first = int(cursor * 2 * per_epoch)
    for size in (1, 2, 3):
        ranks = [list(batches(r, size, 2 * per_epoch)(first)) for r in range(size)]
        for step, parts in enumerate(zip(*ranks, strict=True)):
            expected = whole[first + step]
            np.testing.assert_array_equal(
                np.concatenate([p.own.rows for p in parts]), expected.own.rows
            )
            numbers = np.concatenate([p.own.inputs.numbers for p in parts])
            np.testing.assert_array_equal(numbers, expected.own.inputs.numbers)
            total = sum(float(p.own.weights.sum()) for p in parts)
            for part in parts:
                assert part.global_rows == len(expected.own.rows)
                assert part.global_weight == pytest.approx(total)


def test_a_stream_and_a_copy_split_a_whole_source_alike(tmp_path, monkeypatch):
    """Nothing is dropped, so the sizes are exact, and the held-out rows the same."""
    write(tmp_path / "data", [700, 500], 90)
    sides = {}
    for ingest in ("stream", "prepared"):
        data = DATA.replace("stream", ingest).replace("{type: number, missing: drop}", "number")
        data = data.replace("SOURCE", str(tmp_path / "data")).replace("SPLIT", SPLITS["random"])
        (tmp_path / "job.yaml").write_text(job_text(tmp_path, data=data, **MLP))
        plan = plan_of(tmp_path / "job.yaml")
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        found = split_rows(prepared, plan.columns, plan.job.spec.data, plan.job.spec.seed)
        hashes = prepared.hashes(1)
        sides[ingest] = {s: hashes[found.sides[s]].tolist() for s in ("validation", "test")}
        assert [len(rows) for rows in sides[ingest].values()] == [240, 120]
    assert sides["stream"] == sides["prepared"]


def test_a_source_that_changes_between_epochs_is_named(tmp_path, monkeypatch):
    write(tmp_path / "data", [300], 100)
    _, _, _, batches = opened(tmp_path, "random", monkeypatch, 10)
    reading = batches(0, 1, 10)
    table = pq.read_table(tmp_path / "data" / "0.parquet")
    x = pa.chunked_array([pa.nulls(300, pa.float64())])
    table = table.set_column(table.schema.get_field_index("x"), "x", x)
    pq.write_table(table, tmp_path / "data" / "0.parquet", row_group_size=100)
    with pytest.raises(DataError, match=r"0\.parquet, row group \d: gives 0 training rows"):
        list(reading(0))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("data.split={method: group, column: k}", "`group` needs all rows to place one"),
        ("data.split={method: random, folds: 3}", "again and again"),
        ("data.clean={duplicates: drop}", "looking at all rows"),
        ("model={kind: xgboost}", "`stream` feeds networks"),
        ("tune={search: grid, space: {seed: [1, 2]}}", "changes the split"),
    ],
)
def test_what_cannot_stream_is_refused_with_the_reason(tmp_path, setting, sentence):
    write(tmp_path / "data", [50], 50)
    data = DATA.replace("SOURCE", str(tmp_path / "data")).replace("SPLIT", SPLITS["random"])
    (tmp_path / "job.yaml").write_text(job_text(tmp_path, data=data, **MLP))
    with pytest.raises(PlanError, match=sentence):
        plan_of(tmp_path / "job.yaml", setting)


STOCK = """
import sys, threading, ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Trial:
    def rows(self):
        import ray.data
        return sum(1 for _ in ray.data.range(100).map(lambda row: row).iter_rows())

trials = [Trial.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
done, _ = ray.wait([trial.rows.remote() for trial in trials], timeout=12)
print(len(done))
"""


@pytest.mark.slow
def test_trials_that_hold_all_cpus_still_get_their_data(ray_head, heliostat, tmp_path, table):
    """Stock Ray: every trial holds a CPU and waits for ever for one to read on."""
    script = tmp_path / "stock.py"
    script.write_text(STOCK)
    stock = subprocess.run(
        [sys.executable, str(script), ray_head.address],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert stock.stdout.strip() == "0", stock.stdout + stock.stderr
    data = f"data:\n  source: {table}\n  target: late\n  task: binary\n  ingest: stream\n"
    data += "  features: {x: number, color: category}\n"
    parts = MLP | {"tune": "tune: {search: grid, space: {model.dropout: [0, 0.1, 0.2]}}"}
    job = tmp_path / "job.yaml"
    job.write_text(job_text(table, data=data, storage=f"storage: {tmp_path}/s", **parts))
    address = ("--address", ray_head.address)
    done = heliostat("run", job, *address, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"]["run"] == 3
    assert "1 CPU more to stream the data" in done.stderr
    cpus = 4
    job.write_text(job_text(table, data=data, storage=f"storage: {tmp_path}/s", **MLP))
    crowded = heliostat("run", job, *address, "--set", f"scale.workers={cpus}")
    assert crowded.returncode == 2
    assert f"{cpus} workers x 1 + 1 to stream the data = {cpus + 1} CPUs" in crowded.stderr
