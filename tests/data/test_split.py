"""Splits: exact, stable, and free of leaks, whatever the layout of the files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.data import split as split_module
from heliostat.data import units
from heliostat.data.folds import even_sizes, grouped_folds, hashed_folds
from heliostat.data.ranks import parts_by_rank
from heliostat.data.split import grouped_sides, held_out, split_rows
from heliostat.data.times import blocks_by_time, sides_by_time
from heliostat.errors import DataError
from heliostat.plan.counts import share_count
from heliostat.spec.data import FractionSplit, GroupSplit, RandomSplit, TimeSplit
from tests.conftest import job_text
from tests.data.packing import plan_of, prepare_here

fractions = st.floats(0, 0.49)
hashes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=300)


def parts_of(values, classes, sizes_of, chunk: int) -> np.ndarray:
    """`parts_by_rank` over chunks of an array."""

    def chunks():
        for start in range(0, len(values), chunk):
            yield values[start : start + chunk], classes[start : start + chunk]

    return np.concatenate(list(parts_by_rank(chunks, int(classes.max()) + 1, sizes_of)))


@given(hashes, st.data(), fractions, fractions, st.integers(1, 50))
def test_random_and_stratified_counts_are_exact(values, data, validation, test, chunk):
    n = len(values)
    values = np.array(values, np.uint64)
    classes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    spec = FractionSplit(validation=validation, test=test)
    for labels in (np.zeros(n, int), classes):
        parts = parts_of(values, labels, lambda sizes: held_out(sizes, spec), chunk)
        assert (parts == 0).sum() == share_count(n, test)
        for label in np.unique(labels):
            members = parts[labels == label]
            assert abs((members == 0).sum() - len(members) * test) <= 1
            assert abs((members == 1).sum() - len(members) * validation) <= 2
            # The smallest hashes first, and of equal ones the first rows.
            order = np.lexsort((np.arange(len(members)), values[labels == label]))
            assert (np.diff(members[order]) >= 0).all()


@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=200),
    fractions,
    fractions,
    st.sampled_from([0.0, 0.1]),
)
def test_no_training_row_is_later_than_a_test_row(times, validation, test, gap):
    times = np.array(times)
    sides = sides_by_time(
        times, TimeSplit(method="time", column="t", validation=validation, test=test, gap=gap)
    )
    latest = -1
    for side in (0, 1, 2):
        here = times[sides == side]
        if len(here):
            assert here.min() > latest  # equal times stay together
            latest = here.max()
    biggest = np.unique(times, return_counts=True)[1].max()
    assert abs((sides == 2).sum() - share_count(len(times), test)) <= biggest


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=200), fractions, fractions, st.integers(0, 9)
)
def test_no_group_is_on_two_sides(groups, validation, test, seed):
    codes = np.array(groups)
    sizes = {f"group {g:02d}": groups.count(g) for g in sorted(set(groups))}
    spec = GroupSplit(method="group", column="g", validation=validation, test=test)
    side_of = grouped_sides(sizes, spec, seed)
    assert side_of.keys() == sizes.keys()
    sides = np.array([side_of[f"group {g:02d}"] for g in groups])
    biggest = np.bincount(codes).max()
    assert abs((sides == 2).sum() - share_count(len(codes), test)) <= biggest
    assert abs((sides == 1).sum() - share_count(len(codes), validation)) <= biggest


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), min_size=10, max_size=200),
    st.integers(2, 7),
    st.integers(1, 50),
)
def test_every_row_validates_once_and_folds_are_even(rows, k, chunk):
    values = np.array([row[0] for row in rows], np.uint64)
    classes = np.array([row[1] for row in rows])
    fold = parts_of(values, classes, lambda sizes: even_sizes(sizes, k)[:, :-1], chunk)
    for members in (classes >= 0, *(classes == label for label in np.unique(classes))):
        sizes = np.bincount(fold[members], minlength=k)
        assert sizes.max() - sizes.min() <= 1


@given(st.lists(st.integers(0, 30), min_size=10, max_size=200), st.integers(2, 5))
def test_folds_keep_groups_whole_and_time_in_order(values, k):
    codes, names = np.array(values), tuple(f"g{i}" for i in range(31))
    sizes = {names[code]: values.count(code) for code in sorted(set(values))}
    fold_of = grouped_folds(sizes, 3, k)
    rows = np.bincount([fold_of[names[code]] for code in values], minlength=k)
    assert rows.max() - rows.min() <= np.bincount(codes).max()
    few, many = hashed_folds(names[:9], 3, k), hashed_folds(names, 3, k)
    assert np.array_equal(few, many[:9])  # more values move none
    blocks, starts = blocks_by_time(codes, k)
    for fold in range(k):
        here = codes[blocks == fold + 1]
        assert len(here) == 0 or here.min() >= starts[fold] > codes[blocks <= fold].max(initial=-1)


def test_folds_ignore_row_groups_and_leave_the_test_rows_alone(table, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(table.iterdir(), reverse=True):
        pq.write_table(pq.read_table(path), other / path.name, row_group_size=3)
    for method in ("random", "stratified", "hash, column: z", "time, column: when, gap: 1h"):
        found = []
        for folder, unit in ((table, 65_536), (other, 100)):
            (tmp_path / "job.yaml").write_text(job_text(folder))
            monkeypatch.setattr(units, "ROWS_PER_UNIT", unit)
            plan = plan_of(tmp_path / "job.yaml", f"data.split={{method: {method}, folds: 4}}")
            prepared = prepare_here(plan, tmp_path / f"prepared-{unit}", monkeypatch)
            split = split_rows(prepared, plan.columns, plan.job.spec.data, 3)
            z = prepared.number("z")
            folds = [split.fold(fold).sides for fold in range(4)]
            for fold in folds:
                assert len(np.unique(np.concatenate(list(fold.values())))) == sum(
                    map(len, fold.values())
                )
            found.append([{s: set(z[rows].tolist()) for s, rows in f.items()} for f in folds])
        assert found[0] == found[1]
        tests = [fold["test"] for fold in found[0]]
        assert all(test == tests[0] and test for test in tests)


def test_a_column_names_the_sides(tmp_path, monkeypatch):
    names = ["train"] * 20 + ["validation"] * 6 + ["test"] * 3 + [None]
    columns = {"z": np.arange(30.0), "late": np.arange(30) % 2 == 0, "fold": pa.array(names)}
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "d" / "a.parquet", row_group_size=7)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: t\ndata:\n  source: {tmp_path}/d\n  target: late\n  task: binary\n"
        "  split: {method: column, column: fold}\nmodel: {kind: mlp}\n"
    )
    plan = plan_of(job)
    assert [column.name for column in plan.columns.inputs] == ["z"]
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    found = split_rows(prepared, plan.columns, plan.job.spec.data, 3)
    assert {side: list(rows) for side, rows in found.sides.items()} == {
        "train": list(range(20)), "validation": list(range(20, 26)), "test": [26, 27, 28],
    }  # fmt: skip
    assert found.dropped == {"fold: split column missing": 1}
    columns["fold"] = pa.array(["train"] * 29 + ["holdout"])
    pq.write_table(pa.table(columns), tmp_path / "d" / "a.parquet")
    plan = plan_of(job)
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    with pytest.raises(DataError, match="`fold` holds `holdout`, which is no side"):
        split_rows(prepared, plan.columns, plan.job.spec.data, 3)


def test_a_duration_takes_the_last_days():
    times = np.arange(100) * 86_400_000_000
    split = TimeSplit(method="time", column="t", validation="7d", test="3d", gap="2d")
    sides = sides_by_time(times, split)
    assert list(np.flatnonzero(sides == 2)) == [97, 98, 99]
    assert list(np.flatnonzero(sides == 1)) == list(range(90, 95))  # less two days of gap
    assert list(np.flatnonzero(sides == 3)) == [88, 89, 95, 96]


def sides_by_row(
    folder: Path, tmp_path: Path, monkeypatch, split: str, rows_per_unit: int = 65_536
):
    """(file, z) of the rows of each side: z is unique, so it names a row."""
    job = tmp_path / f"job-{folder.name}.yaml"
    job.write_text(job_text(folder))
    monkeypatch.setattr(units, "ROWS_PER_UNIT", rows_per_unit)
    plan = plan_of(job, f"data.split={split}")
    storage = tmp_path / f"prepared-{folder.name}-{rows_per_unit}"
    prepared = prepare_here(plan, storage, monkeypatch)
    found = split_rows(prepared, plan.columns, plan.job.spec.data, 3)
    z = prepared.number("z")
    return {side: set(z[rows].tolist()) for side, rows in found.sides.items()}


@pytest.mark.parametrize(
    "split", ["{method: random}", "{method: stratified}", "{method: hash, column: z}"]
)
def test_membership_ignores_row_groups_and_the_order_of_files(table, tmp_path, monkeypatch, split):
    """The same rows on the same sides with row groups of 3, and shards of another size."""
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(table.iterdir(), reverse=True):
        pq.write_table(pq.read_table(path), other / path.name, row_group_size=3)
    first = sides_by_row(table, tmp_path, monkeypatch, split)
    assert sides_by_row(other, tmp_path, monkeypatch, split, rows_per_unit=100) == first
    assert not first["train"] & first["test"] and not first["train"] & first["validation"]


def test_a_hash_split_is_stable_when_files_are_added(table, tmp_path, monkeypatch):
    smaller = shutil.copytree(table, tmp_path / "smaller", copy_function=shutil.copy2)
    (smaller / "part-00.parquet").unlink()
    few = sides_by_row(
        smaller, tmp_path, monkeypatch, "{method: hash, column: z, validation: 0.2, test: 0.2}"
    )
    many = sides_by_row(
        table, tmp_path, monkeypatch, "{method: hash, column: z, validation: 0.2, test: 0.2}"
    )
    assert all(few[side] <= many[side] for side in few)


@settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(layout=st.lists(st.integers(0, 40), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_counts_are_exact_over_any_layout(tmp_path, monkeypatch, layout, seed):
    folder = tmp_path / f"layout-{seed}-{'-'.join(map(str, layout))}"
    if sum(layout) < 10 or folder.exists():
        return
    folder.mkdir()
    for i, rows in enumerate(layout):
        columns = {"z": np.arange(rows) + 0.5, "late": np.arange(rows) % 2 == 0}
        pq.write_table(pa.table(columns), folder / f"{i}.parquet", row_group_size=7)
    job = tmp_path / "job.yaml"
    job.write_text(
        job_text(folder).replace(
            "features: {x: number, z: number, count: number, color: category}",
            "features: {z: number}",
        )
    )
    plan = plan_of(job)
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    counts = split_rows(prepared, plan.columns, plan.job.spec.data, seed).counts
    n, split = sum(layout), RandomSplit()
    assert counts["test"] == share_count(n, split.test)
    assert counts["validation"] == share_count(n, split.validation)
    assert sum(counts.values()) == n


def test_an_emptied_side_is_told_with_what_cleaning_took(tmp_path, monkeypatch):
    columns = {"z": np.arange(40.0), "late": pa.array([True, False, True] + [None] * 37)}
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "d" / "a.parquet")
    job = tmp_path / "job.yaml"
    job.write_text(
        job_text(tmp_path / "d").replace(
            "features: {x: number, z: number, count: number, color: category}",
            "features: {z: number}",
        )
    )
    plan = plan_of(job)
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    with pytest.raises(
        DataError, match="the validation side is empty: 3 rows take part, 37 were dropped"
    ):
        split_rows(prepared, plan.columns, plan.job.spec.data, 3)


@pytest.mark.parametrize("most_packed", [0, 10])
def test_a_label_says_what_its_rows_are_in_every_fold(monkeypatch, most_packed):
    monkeypatch.setattr(split_module, "MOST_PACKED_FOLDS", most_packed)
    roles = np.random.default_rng(0).integers(0, 4, (5, 2000)).astype(np.int8)
    kinds: dict[bytes, int] = {}
    labels = np.concatenate([split_module._kinds_of(roles[:, :700], kinds),
                             split_module._kinds_of(roles[:, 700:], kinds)])  # fmt: skip
    columns = np.stack([np.frombuffer(kind, np.int8) for kind in kinds], 1)
    assert np.array_equal(columns[:, labels], roles)
