"""Delta and Iceberg tables: which data files a version or snapshot is made of.

Their own libraries read the logs and metadata; the files are then read like any other. What
needs more than reading files (rows deleted apart from them, renamed columns) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from heliostat.catalog.files import SourceFile
from heliostat.catalog.places import place_of
from heliostat.errors import DataError, Problem, first_line
from heliostat.spec.data import DeltaSource, IcebergSource

HARMLESS_FEATURES = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True)
class Table:
    """A table at one version: its name with the version, its columns, its files."""

    name: str
    schema: pa.Schema
    files: tuple[SourceFile, ...]


def list_table(source: DeltaSource | IcebergSource) -> Table:
    """The files of a table.

    Raises:
        DataError: the library is not installed, there is no such table or version, or the
            table uses a feature that plain reading of its files would get wrong.
    """
    table = _delta(source) if isinstance(source, DeltaSource) else _iceberg(source)
    if not table.files:
        raise DataError(Problem("data.source", f"`{table.name}` holds no file"))
    return table


def _delta(source: DeltaSource) -> Table:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError:
        raise _lacking("delta") from None
    place = place_of(source.delta)
    root = place.location(place.path).partition("?")[0]
    try:
        # The library reads AWS_* by itself; plain HTTP it must be allowed.
        table = DeltaTable(root, source.version, storage_options={"AWS_ALLOW_HTTP": "true"})
    except (DeltaError, TableNotFoundError, OSError, ValueError) as error:
        at = "" if source.version is None else f", version {source.version}"
        message = f"`{source.delta}`{at}: {first_line(error)}"
        raise DataError(Problem("data.source", message)) from error
    if strange := _strange_features(table):
        raise DataError(
            Problem(
                "data.source",
                f"`{source.delta}` uses {', '.join(strange)}: reading its files would be wrong",
                "write a copy without",
            )
        )
    schema = pa.schema(table.schema().to_arrow())
    files = []
    for action in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        path = unquote(action["path"])
        constants = tuple(
            (field.name, str(field.type), _plain(action[f"partition.{field.name}"]))
            for field in schema
            if f"partition.{field.name}" in action
        )
        files.append(
            SourceFile(
                path, place.location(f"{place.path}/{path}"), action["size_bytes"],
                action["modification_time"] * 1_000_000, constants,
            )
        )  # fmt: skip
    name = f"delta {source.delta} at version {table.version()}"
    return Table(name, schema, tuple(sorted(files, key=lambda file: file.path)))


def _strange_features(table: Any) -> list[str]:
    """What changes the meaning of the table's files, or is not known not to."""
    protocol = table.protocol()
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    features = set(protocol.reader_features or ()) - HARMLESS_FEATURES
    return sorted(features | ({"columnMapping"} if mapping != "none" else set()))


def _iceberg(source: IcebergSource) -> Table:
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.exceptions import NoSuchTableError
        from pyiceberg.io.pyarrow import schema_to_pyarrow
    except ImportError:
        raise _lacking("iceberg") from None
    catalog_name, _, name = source.iceberg.partition(".")
    if "." not in name:
        raise DataError(
            Problem(
                "data.source",
                f"`{source.iceberg}` names no Iceberg table",
                "write CATALOG.NAMESPACE.TABLE; PyIceberg's own configuration knows the catalog",
            )
        )
    try:
        table = load_catalog(catalog_name).load_table(name)
        scan = table.scan(snapshot_id=source.snapshot)
        schema, snapshot = schema_to_pyarrow(scan.projection()), scan.snapshot()
        tasks = list(scan.plan_files())
    except (NoSuchTableError, ValueError, OSError) as error:
        at = "" if source.snapshot is None else f", snapshot {source.snapshot}"
        message = f"`{source.iceberg}`{at}: {first_line(error)}"
        raise DataError(Problem("data.source", message)) from error
    if any(task.delete_files for task in tasks):
        raise DataError(
            Problem(
                "data.source",
                f"`{source.iceberg}` has rows deleted by delete files",
                "compact the table (rewrite_data_files), or name an older snapshot",
            )
        )
    files = tuple(_iceberg_file(task.file) for task in tasks)
    number = snapshot.snapshot_id if snapshot is not None else "none"
    name = f"iceberg {source.iceberg} at snapshot {number}"
    return Table(name, schema, tuple(sorted(files, key=lambda file: file.path)))


def _iceberg_file(file: Any) -> SourceFile:
    # Data files are never changed in place, and their names are unique: no time is needed.
    location = file.file_path.removeprefix("file://")
    return SourceFile(location.rpartition("/")[2], location, file.file_size_in_bytes, 0)


def fitted(table: Table, file: SourceFile, schema: pa.Schema) -> pa.Schema:
    """The columns of a file that the table has, and those of the table that are newer than the
    file, which are null in it.

    Raises:
        DataError: a column was renamed since the file was written.
    """
    given = {name for name, _, _ in file.constants} | set(schema.names)
    ids = {_field_id(field): field.name for field in schema if _field_id(field) is not None}
    newer = [field for field in table.schema if field.name not in given]
    for field in newer:
        if (old := ids.get(_field_id(field))) is not None:
            message = f"calls `{old}` what the table now calls `{field.name}`"
            raise DataError(Problem(file.location, message, "rewrite the table's data files"))
    kept = [field for field in schema if field.name in table.schema.names]
    return pa.schema(kept + newer)


def _field_id(field: pa.Field) -> bytes | None:
    return (field.metadata or {}).get(FIELD_ID)


def _plain(value: Any) -> int | str | None:
    return value if value is None or isinstance(value, int) else str(value)


def _lacking(extra: str) -> DataError:
    return DataError(
        Problem(
            "data.source",
            f"reading {extra} tables needs a library that is not installed",
            f"pip install 'heliostat[{extra}]'",
        )
    )
