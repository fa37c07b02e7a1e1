"""The catalog of a source: its listing, its one schema, and a digest of both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress

import pyarrow as pa

from heliostat.catalog.columns import Column, Doubt, Footer
from heliostat.catalog.delimited import layout_of
from heliostat.catalog.files import Constant, SourceFile, list_source
from heliostat.catalog.formats import DELIMITED, JSON_LINES, PARQUET, format_of, read_footer
from heliostat.catalog.inference import NUMBERS, TEXT, common_type
from heliostat.catalog.partitions import with_constants
from heliostat.catalog.schema import Unified, unify
from heliostat.catalog.tables import fitted, list_table
from heliostat.catalog.widening import is_text
from heliostat.errors import DataError, Problem, SettingError
from heliostat.spec.data import DeltaSource, IcebergSource, Source
from heliostat.spec.identity import digest_of
from heliostat.spec.read import ReadSpec

FOOTER_THREADS = 8


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file; `first_row` is its first row's number within the file. `constants`
    are columns that the file's folder names, and `layout` says how a delimited file is read.
    """

    path: str
    location: str
    index: int
    first_row: int
    num_rows: int
    format: str = PARQUET
    constants: tuple[Constant, ...] = ()
    layout: str = ""


@dataclass(frozen=True)
class Catalog:
    """All that footers tell. Files are in the order of their paths relative to the source; `read`
    says how those of delimited text are written.
    """

    source: str
    files: tuple[SourceFile, ...]
    footers: tuple[Footer, ...]
    read: ReadSpec = ReadSpec()

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns by name, those that folders name last; some may have a problem."""
        return self._unified.columns

    @cached_property
    def schema(self) -> pa.Schema:
        """What every file is cast to: all columns that all files can give."""
        return self._unified.schema

    @cached_property
    def _unified(self) -> Unified:
        return unify(self.files, self.footers, self.read)

    def problems_of(self, names: Iterable[str]) -> list[Problem]:
        """Why some of the columns cannot be used; of a name that no column has, nothing."""
        found = (self.columns[name].problem for name in names if name in self.columns)
        return [problem for problem in found if problem is not None]

    @cached_property
    def index(self) -> frozenset[str]:
        """The columns that pandas wrote for the index of a table."""
        return frozenset().union(*(footer.index for footer in self.footers))

    @cached_property
    def doubts(self) -> dict[str, Doubt]:
        """What may be wrong with columns of text, by column."""
        found = [doubt for footer in self.footers for doubt in footer.doubts]
        return {doubt.column: doubt for doubt in sorted(found, key=lambda d: d.is_number)}

    @cached_property
    def formats(self) -> frozenset[str]:
        """The formats of the files."""
        return frozenset(format_of(file.location) for file in self.files)

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
                layout = layout_of(footer.schema, self.read) if kind == DELIMITED else ""
                groups.append(
                    RowGroup(
                        file.path, file.location, index, first, rows, kind, file.constants, layout
                    )  # fmt: skip
                )
                first += rows
        return tuple(groups)

    @cached_property
    def listing(self) -> list[list[str | int]]:
        """Relative path, bytes, modification time and footer hash of each file."""
        return [
            [file.path, file.num_bytes, file.modified_ns, footer.digest, *file.marks]
            for file, footer in zip(self.files, self.footers, strict=True)
        ]

    @cached_property
    def digest(self) -> str:
        """The data digest. Where files differ, the types chosen are a part of the data."""
        mixed = self._unified.mixed
        return digest_of([self.listing, mixed] if mixed else self.listing)


def read_catalog(
    source: Source,
    read: ReadSpec | None = None,
    texts: Collection[str] = (),
    needed: Collection[str] = (),
) -> Catalog:
    """List `source` (file, folder, glob, URI, a list of them, or a table) and read every footer.
    `read` says how delimited text is written; of what is written as text, the columns `texts` stay
    so. Of `needed`, those that no file has may be named by the folders that the source lies in.

    Raises:
        SettingError: a delimited file is written in another way than `read` says.
        DataError: nothing is there, or a file is not what its name says.
    """
    read = read or ReadSpec()
    if isinstance(source, (DeltaSource, IcebergSource)):
        table = list_table(source)
        footers, name = _footers(table.files, read), table.name
        files = table.files
        footers = tuple(
            replace(footer, schema=fitted(table, file, footer.schema))
            for file, footer in zip(files, footers, strict=True)
        )
    else:
        listed = list_source(source)
        footers = _alike(listed, _footers(listed, read), texts)
        stored = {name for footer in footers for name in footer.schema.names}
        files = with_constants(listed, texts, set(needed) - stored)
        name = source if isinstance(source, str) else ", ".join(source)
    return Catalog(name, files, footers, read)


def combined(catalogs: Mapping[str, Catalog]) -> Catalog:
    """One catalog of several sources: their keys, which must differ, begin their files' paths."""
    files = tuple(
        replace(file, path=f"{key}:{file.path}")
        for key, catalog in catalogs.items()
        for file in catalog.files
    )
    footers = _alike(files, tuple(f for catalog in catalogs.values() for f in catalog.footers))
    read = next(iter(catalogs.values())).read
    return Catalog("; ".join(c.source for c in catalogs.values()), files, footers, read)


def _footers(files: tuple[SourceFile, ...], read: ReadSpec) -> tuple[Footer, ...]:
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        results = list(pool.map(partial(_try_footer, read=read), files))
    errors = [result for result in results if isinstance(result, DataError)]
    problems = [error.problems[0] for error in errors]
    settings = [error.settings for error in errors if isinstance(error, SettingError)]
    if settings:
        raise SettingError(problems, settings[0])
    if problems:
        raise DataError(problems)
    return tuple(result for result in results if isinstance(result, Footer))


def _try_footer(file: SourceFile, read: ReadSpec) -> Footer | DataError:
    try:
        return read_footer(file.location, read)
    except DataError as error:
        return error


def _alike(
    files: tuple[SourceFile, ...], footers: tuple[Footer, ...], texts: Collection[str] = ()
) -> tuple[Footer, ...]:
    """The footers with one type for each column of all delimited files: each file alone shows only
    what its own texts may be. What other files have as text is text.
    """
    is_delimited = [format_of(file.location) == DELIMITED for file in files]
    others = (f for f, delimited in zip(footers, is_delimited, strict=True) if not delimited)
    texts = {*texts, *(field.name for f in others for field in f.schema if is_text(field.type))}
    found: dict[str, list[pa.DataType]] = {}
    for footer in compress(footers, is_delimited):
        for field in footer.schema:
            found.setdefault(field.name, []).append(field.type)
    types = {n: TEXT if n in texts else common_type(seen) for n, seen in found.items()}
    doubted = {doubt.column for footer in footers for doubt in footer.doubts}
    doubts = tuple(
        Doubt(name, "its values are numbers in some of the files only", True)
        for name, seen in found.items()
        if types[name] == TEXT and not set(NUMBERS).isdisjoint(seen) and name not in doubted
    )
    return tuple(
        replace(
            footer,
            schema=pa.schema([(field.name, types[field.name]) for field in footer.schema]),
            doubts=(*footer.doubts, *doubts),
        )
        if delimited
        else _with_texts(file, footer, texts)
        for file, footer, delimited in zip(files, footers, is_delimited, strict=True)
    )


def _with_texts(file: SourceFile, footer: Footer, texts: Collection[str]) -> Footer:
    """In JSON a text may look like a time, and Arrow takes it for one."""
    if format_of(file.location) != JSON_LINES:
        return footer
    fields = [
        field.with_type(TEXT)
        if field.name in texts and pa.types.is_timestamp(field.type)
        else field
        for field in footer.schema
    ]
    return replace(footer, schema=pa.schema(fields))
