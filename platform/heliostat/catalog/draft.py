"""A first job file for a data set: the one place that guesses, and it says what it guessed."""

from __future__ import annotations

import difflib
import re

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.catalog import Catalog
from heliostat.catalog.columns import Column
from heliostat.catalog.read import read_groups
from heliostat.errors import DataError, Problem

SAMPLE_ROWS = 20_000
MAX_CLASSES = 20
LIKELY_TARGETS = ("target", "label", "y", "class")


def draft_job(catalog: Catalog, target: str | None) -> str:
    """A commented job file: task, features and types written out.

    Raises:
        DataError: `target` is no column of the source.
    """
    sample = _sample(catalog)
    name = _target(catalog, target)
    task, reason = _task(catalog.columns[name], sample[name])
    lines = [
        "# Drafted by `heliostat init`; check every guess, above all for columns that are only",
        "# known after the target is.",
        f"name: {_job_name(catalog.source)}",
        "seed: 7",
        "",
        "data:",
        f"  source: {catalog.source}",
        f"  target: {name}",
        f"  task: {task}    # {reason}",
        "  features:",
    ]
    for column in catalog.columns.values():
        if column.name != name:
            lines.append(f"    {_quoted(column.name)}: {_feature(column, sample[column.name])}")
    split = "stratified" if task != "regression" else "random"
    lines += [
        f"  split: {{method: {split}, validation: 0.15, test: 0.15}}",
        "",
        "model: {kind: xgboost}",
        "",
        "train: {rounds: 100, validate_every: 10, early_stopping: {patience: 3}}",
    ]
    return "\n".join(lines) + "\n"


def _sample(catalog: Catalog) -> pa.Table:
    """Rows from the first row groups, enough to see how many values a column has."""
    tables, rows = [], 0
    for piece in read_groups(catalog.row_groups, catalog.schema, None):
        tables.append(piece.table)
        rows += piece.num_read
        if rows >= SAMPLE_ROWS:
            break
    if not rows:
        raise DataError(Problem(catalog.source, "holds no row"))
    return pa.concat_tables(tables).slice(0, SAMPLE_ROWS)


def _target(catalog: Catalog, wanted: str | None) -> str:
    names = list(catalog.columns)
    if wanted is None:
        likely = [name for name in names if name.lower() in LIKELY_TARGETS]
        return (likely or names)[-1]
    if wanted not in catalog.columns:
        close = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"columns: {', '.join(names[:12])}"
        raise DataError(Problem("--target", f"the source has no column `{wanted}`", hint))
    return wanted


def _task(column: Column, values: pa.ChunkedArray) -> tuple[str, str]:
    distinct = pc.count_distinct(values).as_py()
    if distinct == 2:
        return "binary", "two values in the sample"
    floating = pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    if column.kind == "number" and (floating or distinct > MAX_CLASSES):
        return "regression", f"{distinct:,} different numbers in the sample"
    return "multiclass", f"{distinct:,} classes in the sample"


def _feature(column: Column, values: pa.ChunkedArray) -> str:
    if column.kind in ("nested", "other"):
        return f"ignore    # {column.type}"
    if column.kind in ("time", "vector"):
        return f"{column.kind}    # {column.type}"
    if column.kind == "number":
        return "number"
    if column.kind == "boolean":
        return "number    # boolean"
    distinct = pc.count_distinct(values).as_py()
    if distinct > 0.5 * len(values) and distinct > 100:
        return f"ignore    # {distinct:,} values in {len(values):,} rows: an identifier?"
    return f"category    # {distinct:,} values in the sample"


def _job_name(source: str) -> str:
    words = re.findall(r"[a-z0-9]+", source.lower().rpartition("/")[2].partition(".")[0])
    name = "-".join(words)[:30].strip("-")
    return name if name[:1].isalpha() else f"job-{name}".rstrip("-")[:30]


def _quoted(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w-]*", name)
    plain_word = name.lower() not in ("null", "true", "false", "y", "n", "yes", "no", "on", "off")
    return (
        name if plain and plain_word else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )
