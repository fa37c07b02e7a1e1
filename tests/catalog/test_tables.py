"""Delta and Iceberg tables through their own libraries: at a version, at a snapshot."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestWriterV2,
)
from pyiceberg.typedef import Record
from pyiceberg.types import StringType
from pyiceberg.utils.config import Config

from heliostat.catalog.catalog import read_catalog
from heliostat.catalog.read import read_groups
from heliostat.errors import DataError
from heliostat.spec.data import DeltaSource, IcebergSource
from tests.data.packing import plan_of, prepare_here

FIRST = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "p": [1, 1, 2]})
SECOND = pa.table({"a": [4], "b": ["q"], "p": [2], "c": [1.5]})


def rows_of(source) -> list[dict]:
    catalog = read_catalog(source)
    names = list(catalog.columns)
    pieces = list(read_groups(catalog.row_groups, catalog.schema, names))
    assert sum(piece.num_read for piece in pieces) == catalog.num_rows
    return sorted(
        (row for piece in pieces for row in piece.table.to_pylist()), key=lambda r: r["a"]
    )


def whole(table: pa.Table, **more) -> list[dict]:
    return [row | {k: row.get(k, v) for k, v in more.items()} for row in table.to_pylist()]


def test_a_delta_table_is_read_at_its_version(tmp_path):
    uri = str(tmp_path / "t")
    write_deltalake(uri, FIRST, partition_by=["p"])
    write_deltalake(uri, SECOND, mode="append", schema_mode="merge")
    DeltaTable(uri).delete("a = 1")
    both = whole(FIRST, c=None) + whole(SECOND)
    assert rows_of(DeltaSource(delta=uri, version=0)) == whole(FIRST)
    assert rows_of(DeltaSource(delta=uri, version=1)) == both
    assert rows_of(DeltaSource(delta=uri)) == both[1:]
    assert read_catalog(DeltaSource(delta=uri)).source.endswith("at version 2")
    for source, sentence in (
        (DeltaSource(delta=uri, version=9), "version 9"),
        (DeltaSource(delta=str(tmp_path / "nothing")), "nothing"),
    ):
        with pytest.raises(DataError, match=sentence):
            read_catalog(source)


@pytest.mark.parametrize(
    ("feature", "configuration"),
    [("deletionVectors", {}), ("columnMapping", {"delta.columnMapping.mode": "name"})],
)
def test_delta_features_that_change_what_files_mean_are_refused(tmp_path, feature, configuration):
    write_deltalake(tmp_path / "t", FIRST)
    log = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            features = {"readerFeatures": [feature], "writerFeatures": [feature]}
            action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7} | features
        if "metaData" in action:
            action["metaData"]["configuration"] = configuration
    log.write_text("\n".join(json.dumps(action) for action in actions))
    refused = f"uses {feature}: reading its files would be wrong|Column mapping is enabled"
    with pytest.raises(DataError, match=refused):
        read_catalog(DeltaSource(delta=str(tmp_path / "t")))


def test_a_delta_table_in_an_object_store(s3_store, monkeypatch):
    for key, value in s3_store.environment.items():
        monkeypatch.setenv(key, value)
    options = {"AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    write_deltalake("s3://bucket/delta", FIRST, partition_by=["p"], storage_options=options)
    assert rows_of(DeltaSource(delta="s3://bucket/delta", version=0)) == whole(FIRST)
    with pytest.raises(DataError, match="is a Delta table"):
        read_catalog("s3://bucket/delta")


@pytest.fixture
def iceberg_table(tmp_path, monkeypatch):
    """An empty Iceberg table, `local.ml.t`, in a catalog of its own."""
    monkeypatch.setenv("PYICEBERG_CATALOG__LOCAL__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LOCAL__WAREHOUSE", f"file://{tmp_path}/warehouse")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # it was read at import
    catalog = load_catalog("local")
    catalog.create_namespace("ml")
    return catalog.create_table("ml.t", FIRST.schema)


def test_an_iceberg_table_is_read_at_its_snapshot(iceberg_table):
    table = iceberg_table
    table.append(FIRST)
    first = table.current_snapshot().snapshot_id
    with table.update_schema() as update:
        update.union_by_name(SECOND.schema)
    table.append(SECOND)
    name = "local.ml.t"
    assert rows_of(IcebergSource(iceberg=name, snapshot=first)) == whole(FIRST)
    assert rows_of(IcebergSource(iceberg=name)) == whole(FIRST, c=None) + whole(SECOND)
    for source, sentence in (
        (IcebergSource(iceberg=name, snapshot=5), "snapshot 5"),
        (IcebergSource(iceberg="local.ml.nothing"), "nothing"),
        (IcebergSource(iceberg="t"), "CATALOG.NAMESPACE.TABLE"),
    ):
        with pytest.raises(DataError, match=sentence):
            read_catalog(source)
    with table.update_schema() as update:
        update.rename_column("b", "word")
    with pytest.raises(DataError, match="calls `b` what the table now calls `word`"):
        read_catalog(IcebergSource(iceberg=name))
    with table.update_schema() as update:
        update.rename_column("word", "b")
        update.add_column("d", StringType())
    assert rows_of(IcebergSource(iceberg=name))[0]["d"] is None


def test_rows_deleted_by_an_iceberg_delete_file_are_not_read_as_if_they_were_there(
    iceberg_table, tmp_path, monkeypatch
):
    """PyIceberg itself writes none: the delete file and its manifest are made by hand."""
    table = iceberg_table
    table.append(FIRST)
    data = next(iter(table.scan().plan_files())).file
    deletes = tmp_path / "deletes.parquet"
    pq.write_table(
        pa.table({"file_path": [data.file_path], "pos": pa.array([0], pa.int64())}), deletes
    )
    entry = DataFile.from_args(
        _table_format_version=2, content=DataFileContent.POSITION_DELETES, file_path=str(deletes),
        file_format=FileFormat.PARQUET, partition=Record(), record_count=1,
        file_size_in_bytes=deletes.stat().st_size,
    )  # fmt: skip
    entry.spec_id = table.spec().spec_id
    with monkeypatch.context() as patched:
        patched.setattr(ManifestWriterV2, "content", lambda self: ManifestContent.DELETES)
        with table.transaction() as change, change.update_snapshot().fast_append() as append:
            append.append_data_file(entry)
    with pytest.raises(DataError, match="has rows deleted by delete files.*rewrite_data_files"):
        read_catalog(IcebergSource(iceberg="local.ml.t"))


def test_sides_from_sources_of_their_own(table, tmp_path, monkeypatch):
    """A table trains, files validate and test; one preparation holds all three."""
    everything = pq.read_table(table)
    write_deltalake(str(tmp_path / "train"), everything.slice(0, 900))
    for side, start, stop in (("validation", 900, 1000), ("test", 1000, 1200)):
        (tmp_path / side).mkdir()
        pq.write_table(everything.slice(start, stop - start), tmp_path / side / "a.parquet")
    (tmp_path / "job.yaml").write_text(
        "name: t\ndata:\n  source: {delta: train, version: 0}\n  target: late\n  task: binary\n"
        "  features: {x: number, z: number}\n  clean: {duplicates: drop}\n"
        "  split: {method: source, validation: validation, test: test/*.parquet}\n"
        "model: {kind: mlp}\n"
    )
    from heliostat.data.split import split_rows

    plan = plan_of(tmp_path / "job.yaml", "data.clean.duplicates=keep")
    assert (plan.counts.train, plan.counts.validation, plan.counts.test) == (900, 100, 200)
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    found = split_rows(prepared, plan.columns, plan.job.spec.data, 3)
    z = prepared.number("z")
    for side, start, stop in (("train", 0, 900), ("validation", 900, 1000), ("test", 1000, 1200)):
        expected = everything["z"].slice(start, stop - start).to_numpy().astype("float32")
        assert sorted(z[found.sides[side]]) == sorted(expected)
