"""A first job file for a data set: the one place that guesses, and it says what it guessed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.catalog import Catalog
from heliostat.catalog.columns import Column
from heliostat.catalog.read import read_groups
from heliostat.catalog.relations import counts_rows, nearly_tells
from heliostat.errors import DataError, Problem
from heliostat.spec.yaml import LONGEST_KEY, quoted

SAMPLE_ROWS, SAMPLE_GROUPS = 20_000, 4
WHOLE_BYTES = 64 << 20  # of a source so small every value of the target is looked at
MAX_CLASSES, LEAST_OF_A_CLASS = 20, 20
LONGEST_COMMENT = 100
MOST_LISTED = 1000
LIKELY_TARGETS = ("target", "label", "y", "class")
LEARNABLE = ("number", "boolean", "category")


@dataclass(frozen=True)
class Draft:
    """The text of a job file, and what to look at before it is used."""

    text: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    """What becomes of a column, and why; a `warning` is for a person to look at."""

    feature: str
    reason: str = ""
    warning: bool = False


def draft_job(catalog: Catalog, target: str | None) -> Draft:
    """A commented job file: task, features and types written out.

    Raises:
        DataError: `target` is no column of the source, or the source has nothing to learn.
    """
    sample = _sample(catalog)
    name = _target(catalog, sample, target)
    values = _all_values(catalog, name) if catalog.num_bytes <= WHOLE_BYTES else sample[name]
    task, reason = _task(catalog.columns[name], values)
    choices = _choices(catalog, sample, name, task)
    lines = [
        "# Drafted by `heliostat init`; check every guess, above all for columns that are only",
        "# known after the target is.",
        f"name: {quoted(_job_name(catalog.source))}",
        "seed: 7",
        *_objective_lines(task),
        "",
        "data:",
        f"  source: {quoted(catalog.source)}",
        *_read_lines(catalog),
        f"  target: {quoted(name)}",
        f"  task: {task}    # {reason}",
        *_positive_lines(task, values),
        "  features:",
        *_features(catalog, choices),
        f"  split: {_split(catalog.num_rows, task, values)}",
        "",
        "model: {kind: xgboost, learning_rate: 0.1}",
        "",
        "# Stops once 20 rounds bring no better score on validation, and keeps the best of them.",
        "train: {rounds: 500, validate_every: 1, early_stopping: {patience: 20}}",
    ]
    warnings = [f"`{n}`: {c.reason}" for n, c in choices.items() if c.warning]
    return Draft("\n".join(lines) + "\n", tuple(map(_plain, warnings)))


def _sample(catalog: Catalog) -> pa.Table:
    """Rows from all over the source, enough to see how many values a column has."""
    groups = [group for group in catalog.row_groups if group.num_rows]
    if not groups:
        raise DataError(Problem(catalog.source, "holds no row"))
    count = len(groups) if catalog.num_rows <= SAMPLE_ROWS else min(SAMPLE_GROUPS, len(groups))
    tables = []
    for i in range(count):
        rows = SAMPLE_ROWS // count if catalog.num_rows > SAMPLE_ROWS else SAMPLE_ROWS
        for piece in read_groups([groups[i * len(groups) // count]], catalog.schema, None):
            tables.append(piece.table.slice(0, rows))
            rows -= tables[-1].num_rows
            if rows <= 0:
                break
    return pa.concat_tables(tables)


def _all_values(catalog: Catalog, name: str) -> pa.ChunkedArray:
    pieces = read_groups(catalog.row_groups, catalog.schema, [name])
    return pa.concat_tables([piece.table for piece in pieces])[name]


def _target(catalog: Catalog, sample: pa.Table, wanted: str | None) -> str:
    names = [
        name
        for name, column in catalog.columns.items()
        if column.kind in LEARNABLE
        and column.problem is None
        and name not in catalog.index
        and _num_values(sample[name]) > 1
    ]
    if wanted is None:
        if not names:
            what = "has no column to learn: of numbers, words or yes and no, with several values"
            raise DataError(Problem(catalog.source, what))
        likely = [name for name in names if name.lower() in LIKELY_TARGETS]
        return (likely or names)[-1]
    if wanted not in catalog.columns:
        close = difflib.get_close_matches(wanted, list(catalog.columns), n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"columns: {', '.join(names[:12])}"
        raise DataError(Problem("--target", f"the source has no column `{wanted}`", hint))
    column = catalog.columns[wanted]
    if column.problem is not None:
        raise DataError(column.problem)
    if column.kind not in LEARNABLE:
        what = f"column `{wanted}` is {column.type}: neither numbers nor classes"
        raise DataError(Problem("--target", what, "name another one"))
    if wanted not in names and wanted not in catalog.index:
        what = f"column `{wanted}` has fewer than two values: nothing to learn"
        raise DataError(Problem("--target", what, "name another one"))
    return wanted


def _task(column: Column, values: pa.ChunkedArray) -> tuple[str, str]:
    distinct = _num_values(values)
    if distinct == 2:
        return "binary", "two values"
    floating = pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    if column.kind == "number" and (floating or distinct > MAX_CLASSES):
        return "regression", f"{distinct:,} different numbers"
    return "multiclass", f"{distinct:,} classes"


def _num_values(values: pa.ChunkedArray) -> int:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):
        values = values.drop_null()
        values = values.filter(pc.invert(pc.is_nan(values)))
    distinct: int = pc.count_distinct(values).as_py()
    return distinct


def _read_lines(catalog: Catalog) -> Iterator[str]:
    settings = catalog.read.model_dump(exclude_defaults=True)
    if settings:
        shown = ", ".join(f"{key}: {_setting(value)}" for key, value in settings.items())
        yield f"  read: {{{shown}}}    # as the text seems to be written"


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(quoted(item) for item in value)}]"
    return quoted(value) if isinstance(value, str) else str(value).lower()


def _objective_lines(task: str) -> Iterator[str]:
    if task == "multiclass":
        yield "objective: log_loss    # of few rows it tells more than accuracy does"


def _positive_lines(task: str, values: pa.ChunkedArray) -> Iterator[str]:
    """The class that comes last, which is the positive one if nothing else is said."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if task != "binary" or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return
    last = max(value for value in values.unique().to_pylist() if value is not None)
    yield f"  positive: {_setting(last)}    # the class that precision, recall and F1 speak of"


def _choices(catalog: Catalog, sample: pa.Table, target: str, task: str) -> dict[str, _Choice]:
    """What becomes of every column but the target; of one at least something is learned."""
    is_all = sample.num_rows == catalog.num_rows
    choices = {}
    for name, column in catalog.columns.items():
        if name == target:
            continue
        if column.problem is not None:
            choices[name] = _Choice("ignore", column.problem.message, True)
            continue
        choice = _choice(catalog, column, sample[name], is_all)
        if choice.feature in LEARNABLE and nearly_tells(
            sample[name], sample[target], task != "regression"
        ):
            what = f"nearly tells `{target}` alone: is it known before?"
            choice = _Choice(choice.feature, what, True)
        choices[name] = choice
    if all(choice.feature == "ignore" for choice in choices.values()):
        usable = [
            name
            for name in choices
            if catalog.columns[name].kind in (*LEARNABLE, "time")
            and catalog.columns[name].problem is None
        ]
        if not usable:
            raise DataError(Problem(catalog.source, f"has no column to learn `{target}` from"))
        only = next((n for n in usable if n not in catalog.index), usable[0])
        kind = catalog.columns[only].kind
        feature = "number" if kind == "boolean" else kind
        choices[only] = _Choice(feature, f"{choices[only].reason} There is no other input", True)
    return choices


def _choice(catalog: Catalog, column: Column, values: pa.ChunkedArray, is_all: bool) -> _Choice:
    distinct = None if column.kind not in LEARNABLE else _num_values(values)
    doubt = catalog.doubts.get(column.name)
    if column.name in catalog.index:
        return _Choice("ignore", "the index of a table of pandas")
    if column.kind in ("nested", "other") or (column.kind == "vector" and not column.size):
        return _Choice("ignore", f"{column.type}, which no feature takes")
    if values.null_count == len(values) or distinct == 0:
        return _Choice("ignore", "no value in the sample")
    if column.kind in ("time", "vector"):
        return _Choice(column.kind, column.type)
    if distinct == 1:
        return _Choice("ignore", "one value in the sample")
    if counts_rows(values, is_all):
        return _Choice("ignore", "counts the rows: an index?", True)
    if doubt is not None and doubt.is_number:
        return _Choice("category", f"read as text, but {doubt.what}", True)
    if column.kind == "number":
        return _Choice("number")
    if column.kind == "boolean":
        return _Choice("number", "boolean")
    if distinct is not None and distinct > 0.5 * len(values) and distinct > 100:
        return _Choice("ignore", f"{distinct:,} values in {len(values):,} rows: an identifier?")
    return _Choice("category", f"{distinct:,} values in the sample")


def _features(catalog: Catalog, choices: dict[str, _Choice]) -> Iterator[str]:
    """A line for each column; of very many only those that their type does not decide."""
    if len(choices) <= MOST_LISTED:
        for name, choice in choices.items():
            yield from _feature_lines(name, choice)
        return
    for name, choice in choices.items():
        doubt = catalog.doubts.get(name)
        is_decided = choice.feature != "ignore" or name in catalog.index
        if not is_decided or choice.warning or (doubt is not None and doubt.is_number):
            yield from _feature_lines(name, choice)
    every = next(glob for glob in map("*".__mul__, count(1)) if glob not in catalog.columns)
    yield from _feature_lines(every, _Choice("auto", "every other column by its type"))


def _feature_lines(name: str, choice: _Choice) -> Iterator[str]:
    comment = f"    # {_plain(choice.reason)}" if choice.reason else ""
    key = quoted(name)
    if len(key) <= LONGEST_KEY:
        yield f"    {key}: {choice.feature}{comment}"
    else:
        yield f"    ? {key}"
        yield f"    : {choice.feature}{comment}"


def _plain(text: str) -> str:
    """A comment's text in one line, whatever a name or a type holds."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= LONGEST_COMMENT else f"{shown[:LONGEST_COMMENT]}..."


def _split(num_rows: int, task: str, values: pa.ChunkedArray) -> str:
    if num_rows < 4:
        shares = "validation: 0.34, test: 0.34" if num_rows == 3 else "validation: 0.5, test: 0"
        return f"{{method: random, {shares}}}    # few rows"
    counts = pc.value_counts(values.drop_null()).field("counts")
    many = task != "regression" and pc.min(counts).as_py() >= LEAST_OF_A_CLASS
    return f"{{method: {'stratified' if many else 'random'}, validation: 0.15, test: 0.15}}"


def _job_name(source: str) -> str:
    words = re.findall(
        r"[a-z0-9]+", source.lower().rstrip("/").rpartition("/")[2].partition(".")[0]
    )
    name = "-".join(words)[:30].strip("-")
    return name if name[:1].isalpha() else f"job-{name}"[:30].rstrip("-")
