"""A model and the source that it scores: checked before the first row, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from threadpoolctl import threadpool_limits

from heliostat.catalog.catalog import Catalog, read_catalog
from heliostat.catalog.columns import kind_of
from heliostat.catalog.read import read_groups
from heliostat.catalog.types import type_of
from heliostat.data.learned import as_learned, learned_target, type_problem
from heliostat.data.moments import num_threads
from heliostat.data.pack import pack_table, unpack
from heliostat.data.shares import Counts
from heliostat.data.units import ROWS_PER_UNIT, Unit
from heliostat.errors import DataError, Problem, SettingError
from heliostat.models.predictor import Scores
from heliostat.parallel.device import scoring_device
from heliostat.plan.inputs import PackedColumn
from heliostat.spec.model import CustomModel
from heliostat.storage.objects import StorePath, as_path
from heliostat.train.artifact import TrainedModel, load_model


@dataclass(frozen=True)
class Scoring:
    """The model in the folder `model`, with the source that it is to score."""

    model: str
    catalog: Catalog

    @property
    def trained(self) -> TrainedModel:
        """The model, loaded once a process."""
        return model_in(self.model)

    @property
    def num_threads(self) -> int:
        """How many may score at once in this process: one where own code does, which need not bear
        several, or a GPU.
        """
        is_own = isinstance(self.trained.spec, CustomModel) or bool(self.trained.encoder.customs)
        return 1 if is_own or scoring_device() == "cuda" else num_threads()


def open_scoring(model: StorePath, source: str | tuple[str, ...], with_target: bool) -> Scoring:
    """Look at a source's footers for what the model needs; `with_target`: also what it learned to
    predict.

    Raises:
        DataError: a column is missing, or is not of the type that the model learned.
        ArtifactError: a file of the model is missing, changed, or of a newer format.
    """
    folder = str(model.resolve() if isinstance(model, Path) else model)
    trained = model_in(folder)
    columns = needed_columns(trained, with_target)
    catalog = _catalog(source, trained, [column.name for column in columns])
    if problems := catalog.problems_of(column.name for column in columns):
        raise DataError(problems)
    found = [_column_problem(trained, catalog, column) for column in columns]
    if problems := [problem for problem in dict.fromkeys(found) if problem is not None]:
        raise DataError(problems)
    return Scoring(folder, catalog)


def _catalog(
    source: str | tuple[str, ...], trained: TrainedModel, needed: Sequence[str]
) -> Catalog:
    """The source, delimited text of it as the model's own was written; what it learned as text is
    text there, whatever it looks like. A column that is needed may be the name of a folder that
    the source lies in.
    """
    types = {name: type_of(type_) for name, type_ in _learned_types(trained).items()}
    texts = {name for name, type_ in types.items() if type_ and kind_of(type_) == "category"}
    try:
        return read_catalog(source, trained.read, texts, needed)
    except SettingError as error:
        hint = "it is read as the model's own data was (`data.read`): write it in the same way"
        raise DataError([replace(problem, hint=hint) for problem in error.problems]) from error


@lru_cache(maxsize=1)
def model_in(folder: str) -> TrainedModel:
    """The model, loaded once a process."""
    return load_model(as_path(folder))


def needed_columns(trained: TrainedModel, with_target: bool) -> tuple[PackedColumn, ...]:
    """The source columns of the inputs; and of the target and its weight."""
    if not with_target:
        return trained.packed_columns
    if trained.target is not None:
        return (*trained.packed_columns, trained.target)
    target = trained.encoder.target
    own = [PackedColumn(target.name, "category" if target.classes else "exact")]
    if target.weight is not None:
        own.append(PackedColumn(target.weight, "exact"))
    return (*trained.packed_columns, *own)


def _learned_types(trained: TrainedModel) -> dict[str, str]:
    """The source's types in training; of a model of an earlier version, that of the classes."""
    target = trained.encoder.target
    own = {target.name: target.source_type} if target.classes else {}
    return own | dict(trained.types)


def _column_problem(
    trained: TrainedModel, catalog: Catalog, column: PackedColumn
) -> Problem | None:
    found = catalog.columns.get(column.name)
    if found is None:
        is_input = column in trained.packed_columns
        what = "an input of the model" if is_input else "the target or its weight"
        return Problem(catalog.source, f"has no column `{column.name}`, {what}")
    types = _learned_types(trained)
    type_ = catalog.schema.field(column.name).type
    if learned_target(column.form, types.get(column.name), type_) is None:
        values = _some_values(catalog, column.name)
        return type_problem(catalog.source, column, types, values)
    sizes = {own.name: own.size for own in trained.inputs if own.kind == "vector"}
    if found.kind == "vector" and found.size != sizes.get(column.name, found.size):
        message = f"column `{column.name}` is {found.type}; the model needs a vector"
        return Problem(catalog.source, f"{message} of {sizes[column.name]} places")
    return None


def _some_values(catalog: Catalog, name: str) -> pa.ChunkedArray:
    """The first values of a column, to show one."""
    group = next((group for group in catalog.row_groups if group.num_rows), None)
    if group is None:
        return pa.chunked_array([], catalog.schema.field(name).type)
    return next(read_groups([group], catalog.schema, [name])).table[name]


@dataclass(frozen=True)
class Batch:
    """Rows of a unit as they stand in the source, and the model's columns as it learned them;
    `places` are the files that they come from.
    """

    table: pa.Table
    learned: pa.Table
    places: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where the rows come from, in words."""
        more = len(self.places) - 1
        return f"{self.places[0]} and {more} more" if more > 0 else "".join(self.places)


def read_batches(
    unit: Unit, trained: TrainedModel, schema: pa.Schema, with_target: bool = False,
    every_column: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """The rows of a unit, about `ROWS_PER_UNIT` at a time; `schema` is the source's.

    Raises:
        DataError: a page is damaged, or a value is not the same in the type the model learned.
    """
    columns, types = needed_columns(trained, with_target), _learned_types(trained)
    names = sorted({column.name for column in columns})
    locations = {group.path: group.location for group in unit.groups}
    waiting: list[Batch] = []
    rows = 0
    wanted = None if every_column else names
    for piece in read_groups(unit.groups, schema, wanted, checked=names):
        place = locations[piece.path]
        learned = as_learned(piece.table.select(names), columns, types, place)
        for start in range(0, piece.table.num_rows, ROWS_PER_UNIT):
            own, same = (t.slice(start, ROWS_PER_UNIT) for t in (piece.table, learned))
            waiting.append(Batch(own, same, (place,)))
            rows += own.num_rows
            if rows >= ROWS_PER_UNIT:
                yield _joined(waiting)
                waiting, rows = [], 0
    if waiting:
        yield _joined(waiting)


def scored(trained: TrainedModel, learned: pa.Table, found: Counts) -> Scores:
    """The model's scores of a batch; what is missing or new to it is added to `found`."""
    packed = unpack(pack_table(learned, trained.packed_columns)[0])
    found.add_batch(packed, trained.packed_columns, trained.encoder)
    return trained.scores(packed)


def _joined(batches: list[Batch]) -> Batch:
    return Batch(
        pa.concat_tables([batch.table for batch in batches]),
        pa.concat_tables([batch.learned for batch in batches]),
        tuple(dict.fromkeys(place for batch in batches for place in batch.places)),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Every library's threads down to one: what is scored has the same bits on every machine. Some
    limits are a thread's own, others the process's: who scores in threads holds it around them all.
    """
    with threadpool_limits(1):
        yield
