"""The catalog of a source: its listing, its schema, and a digest of both."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from heliostat.catalog.columns import Column, Footer, columns_of
from heliostat.catalog.files import Constant, SourceFile, list_source
from heliostat.catalog.formats import PARQUET, format_of, read_footer
from heliostat.catalog.tables import fitted, list_table
from heliostat.errors import DataError, Problem
from heliostat.spec.data import DeltaSource, IcebergSource, Source
from heliostat.spec.identity import digest_of

FOOTER_THREADS = 8


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file; `first_row` is its first row's number within the file. `constants`
    are columns that the file's folder names.
    """

    path: str
    location: str
    index: int
    first_row: int
    num_rows: int
    format: str = PARQUET
    constants: tuple[Constant, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """All that footers tell. Files are in the order of their paths relative to the source."""

    source: str
    files: tuple[SourceFile, ...]
    footers: tuple[Footer, ...]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns by name."""
        return {column.name: column for column in columns_of(self.schema)}

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns as Arrow types, those that folders name last."""
        schema = self.footers[0].schema
        for name, type_, _ in self.files[0].constants:
            if name not in schema.names:
                schema = schema.append(pa.field(name, pa.type_for_alias(type_)))
        return schema

    @cached_property
    def index(self) -> frozenset[str]:
        """The columns that pandas wrote for the index of a table."""
        return frozenset().union(*(footer.index for footer in self.footers))

    @cached_property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(sum(footer.group_rows) for footer in self.footers)

    @cached_property
    def largest(self) -> dict[str, int]:
        """The largest absolute value known of each integer column."""
        found: dict[str, int] = {}
        for footer in self.footers:
            for name, value in footer.largest:
                found[name] = max(value, found.get(name, 0))
        return found

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    @cached_property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """All row groups in catalog order."""
        groups = []
        for file, footer in zip(self.files, self.footers, strict=True):
            first, kind = 0, format_of(file.location)
            for index, rows in enumerate(footer.group_rows):
                groups.append(
                    RowGroup(file.path, file.location, index, first, rows, kind, file.constants)
                )
                first += rows
        return tuple(groups)

    @cached_property
    def listing(self) -> list[list[str | int]]:
        """Relative path, bytes, modification time and footer hash of each file."""
        return [
            [file.path, file.num_bytes, file.modified_ns, footer.digest]
            for file, footer in zip(self.files, self.footers, strict=True)
        ]

    @cached_property
    def digest(self) -> str:
        """The data digest."""
        return digest_of(self.listing)


def read_catalog(source: Source) -> Catalog:
    """List `source` (file, folder, glob, URI, a list of them, or a table) and read every footer.

    Raises:
        DataError: nothing is there, a file is not what its name says, or the schemas differ.
    """
    if isinstance(source, (DeltaSource, IcebergSource)):
        table = list_table(source)
        footers, name = _footers(table.files), table.name
        fitting = [
            fitted(table, file, footer.schema)
            for file, footer in zip(table.files, footers, strict=True)
        ]
        files = tuple(file for file, _ in fitting)
        footers = tuple(
            replace(footer, schema=schema)
            for footer, (_, schema) in zip(footers, fitting, strict=True)
        )
    else:
        files = list_source(source)
        footers = _footers(files)
        name = source if isinstance(source, str) else ", ".join(source)
    _check_same_columns(files, footers)
    return Catalog(name, files, footers)


def combined(catalogs: Mapping[str, Catalog]) -> Catalog:
    """One catalog of several sources: their keys, which must differ, begin their files' paths."""
    files = tuple(
        replace(file, path=f"{key}:{file.path}")
        for key, catalog in catalogs.items()
        for file in catalog.files
    )
    footers = tuple(footer for catalog in catalogs.values() for footer in catalog.footers)
    _check_same_columns(files, footers)
    return Catalog("; ".join(c.source for c in catalogs.values()), files, footers)


def _footers(files: tuple[SourceFile, ...]) -> tuple[Footer, ...]:
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        results = list(pool.map(_try_footer, files))
    problems = [result for result in results if isinstance(result, Problem)]
    if problems:
        raise DataError(problems)
    return tuple(result for result in results if isinstance(result, Footer))


def _try_footer(file: SourceFile) -> Footer | Problem:
    try:
        return read_footer(file.location)
    except DataError as error:
        return error.problems[0]


def _check_same_columns(files: tuple[SourceFile, ...], footers: tuple[Footer, ...]) -> None:
    first = _kinds(files[0], footers[0])
    problems = []
    for file, footer in zip(files, footers, strict=True):
        if footer is footers[0] or (footer.schema.equals(footers[0].schema) and not file.constants):
            continue
        here = _kinds(file, footer)
        for name in sorted(first.keys() ^ here.keys()):
            lacking = files[0] if name in here else file
            problems.append(
                Problem(lacking.location, f"lacks column `{name}`, which other files have")
            )
        for name in sorted(first.keys() & here.keys()):
            if here[name].kind != first[name].kind:
                problems.append(
                    Problem(
                        file.location,
                        f"column `{name}` is {here[name].type}, "
                        f"but {first[name].type} in {files[0].path}",
                    )
                )
    if problems:
        raise DataError(list(dict.fromkeys(problems))[:20])


def _kinds(file: SourceFile, footer: Footer) -> dict[str, Column]:
    constants = pa.schema([(name, pa.type_for_alias(type_)) for name, type_, _ in file.constants])
    own = {column.name: column for column in columns_of(footer.schema)}
    return {column.name: column for column in columns_of(constants)} | own
