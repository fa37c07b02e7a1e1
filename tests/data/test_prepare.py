"""Preparation: no row lost, no work lost, one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.data import prepare as prepare_module
from heliostat.data import units
from heliostat.data.split import split_rows
from heliostat.errors import DataError
from tests.conftest import PATIENCE_SECONDS, job_text
from tests.data.packing import plan_of, prepare_here


@pytest.fixture
def plan(table, tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(job_text(table))
    monkeypatch.setattr(units, "ROWS_PER_UNIT", 100)
    monkeypatch.setattr(prepare_module, "ROWS_PER_UNIT", 100)
    return plan_of(tmp_path / "job.yaml")


def content(prepared) -> list:
    columns = [shard.categories["color"] for shard in prepared.shards]
    colors = [column.values[code] for column in columns for code in column.codes]
    return [prepared.number("z").tolist(), colors, prepared.hashes(3).tolist()]


def test_a_killed_preparation_goes_on_where_it_was(plan, tmp_path, monkeypatch):
    whole = prepare_here(plan, tmp_path / "whole", monkeypatch)
    packed = []

    def count(unit, **arguments):
        packed.append(unit.index)
        if len(packed) == 5:
            raise KeyboardInterrupt
        return pack_unit(unit, **arguments)

    pack_unit = prepare_module._pack_unit
    monkeypatch.setattr(prepare_module, "_pack_unit", count)
    with pytest.raises(KeyboardInterrupt):
        prepare_here(plan, tmp_path / "prepared", monkeypatch)
    (stage,) = (tmp_path / "prepared").glob(".stage-*")
    damaged = stage / "shard-000002-0.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    packed[:] = [-1] * 9
    resumed = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    assert packed[9:] == [2, *range(4, len(units.units_of(plan.catalog)))]
    assert str(content(resumed)) == str(content(whole))
    assert not list((tmp_path / "prepared").glob(".stage-*"))


def prepare_and_say(plan, folder, answers, slow: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        pack_unit = prepare_module._pack_unit

        def pack(unit, **arguments):
            answers.put(("packed", unit.index))
            if slow:
                threading.Event().wait(60)
            return pack_unit(unit, **arguments)

        patch.setattr(prepare_module, "_pack_unit", pack)
        prepared = prepare_here(plan, folder, patch)
        answers.put(("rows", prepared.num_rows))


def test_a_second_run_waits_for_the_first_and_takes_over_when_it_dies(plan, tmp_path):
    context = multiprocessing.get_context("fork")
    first, second = context.Queue(), context.Queue()
    folder = tmp_path / "prepared"
    slow = context.Process(target=prepare_and_say, args=(plan, folder, first, True))
    slow.start()
    assert first.get(timeout=PATIENCE_SECONDS) == ("packed", 0)
    waiting = context.Process(target=prepare_and_say, args=(plan, folder, second, False))
    waiting.start()
    waiting.join(2)
    assert waiting.is_alive() and second.empty()
    os.kill(slow.pid, signal.SIGKILL)
    slow.join()
    heard = [
        second.get(timeout=PATIENCE_SECONDS) for _ in range(len(units.units_of(plan.catalog)) + 1)
    ]
    waiting.join(30)
    assert heard[-1] == ("rows", 1200) and waiting.exitcode == 0


@pytest.mark.parametrize("rows_per_unit", [50, 100, 65_536])
def test_a_filter_changes_no_side_of_the_rows_it_keeps(table, tmp_path, monkeypatch, rows_per_unit):
    """Row identity is the row's number in its file, whatever a filter leaves out."""
    monkeypatch.setattr(units, "ROWS_PER_UNIT", rows_per_unit)
    monkeypatch.setattr(prepare_module, "ROWS_PER_UNIT", rows_per_unit)
    (tmp_path / "job.yaml").write_text(job_text(table))
    everything = plan_of(tmp_path / "job.yaml")
    some = plan_of(tmp_path / "job.yaml", "data.filter=count >= 2 and z < 0.5")
    assert everything.prepared_digest != some.prepared_digest
    hashes = []
    for plan in (everything, some):
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        pairs = zip(prepared.number("z").tolist(), prepared.hashes(3).tolist(), strict=True)
        hashes.append(set(pairs))
    assert hashes[1] < hashes[0]
    source = pq.read_table(table)
    kept = (np.array(source["count"]) >= 2) & (np.array(source["z"]) < 0.5)
    assert prepared.num_rows == kept.sum() and prepared.filtered == (~kept).sum()
    split = split_rows(prepared, some.columns, some.job.spec.data, 3)
    assert sum(split.counts.values()) == kept.sum()


def test_many_tiny_row_groups_and_many_columns(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    table = pa.table({"z": np.arange(30_000.0), "late": np.arange(30_000) % 2 == 0})
    pq.write_table(table, tmp_path / "tiny" / "a.parquet", row_group_size=3)
    (tmp_path / "wide").mkdir()
    wide = {f"c{i}": np.arange(50.0) + i for i in range(10_000)} | {"late": np.arange(50) % 2 == 0}
    pq.write_table(pa.table(wide), tmp_path / "wide" / "a.parquet")
    for name, rows, inputs in (("tiny", 30_000, 1), ("wide", 50, 10_000)):
        (tmp_path / "job.yaml").write_text(
            f"name: t\ndata: {{source: {tmp_path / name}, target: late, task: binary}}\n"
            "model: {kind: xgboost}\n"
        )
        plan = plan_of(tmp_path / "job.yaml")
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        assert prepared.num_rows == rows and len(plan.columns.inputs) == inputs
        assert len(prepared.segments[0]) == 1


def test_a_file_that_changes_during_the_run_is_named(tmp_path, table, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.parquet").write_bytes((table / "part-00.parquet").read_bytes())
    (tmp_path / "job.yaml").write_text(job_text(source))
    for change, sentence in (
        (lambda path: path.unlink(), "a.parquet: the file has gone since it was listed"),
        (lambda path: pq.write_table(pq.read_table(path)[:100], path), "a.parquet"),
        (lambda path: path.write_bytes(b"PAR1"), "a.parquet: is damaged"),
    ):
        (source / "a.parquet").write_bytes((table / "part-00.parquet").read_bytes())
        plan = plan_of(tmp_path / "job.yaml")
        change(source / "a.parquet")
        with pytest.raises(DataError, match=sentence):
            prepare_here(plan, tmp_path / "prepared", monkeypatch)
