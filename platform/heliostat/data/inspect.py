"""A look into a source that is small enough: what only its values can tell, before anything starts.

The rows are packed in memory and split, and their targets checked, by the code that a run uses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from heliostat.catalog.read import read_groups
from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import Prepared, Segment, StreamFacts
from heliostat.data.sieve import sieve_of
from heliostat.data.split import split_in_memory
from heliostat.data.targets import check_split
from heliostat.errors import DataError
from heliostat.plan.counts import SplitCounts
from heliostat.plan.inputs import PackedColumn
from heliostat.plan.plan import Plan, with_counts

MOST_BYTES = 64 * 2**20


def is_small(plan: Plan) -> bool:
    """Whether a source is read before a run starts anything."""
    return plan.catalog.num_bytes <= MOST_BYTES


def inspected(plan: Plan) -> Plan:
    """The plan with what the values of a small source tell; of a larger one, as it is.

    Raises:
        DataError: as `split_rows` and `check_split` do.
    """
    spec = plan.job.spec
    if not is_small(plan) or spec.data.task == "language":
        return plan
    drops_repeated = spec.data.clean.duplicates == "drop"
    columns = plan.columns.packed if drops_repeated else _deciding(plan)
    prepared = _packed(plan, columns)
    split = split_in_memory(prepared, plan.columns, spec.data, spec.seed)
    notes = check_split(spec, plan.columns, prepared, split)
    if prepared.stream is not None or split.roles is not None:
        return replace(plan, notes=(*plan.notes, *notes))
    counts = split.counts
    exact = SplitCounts(counts["train"], counts["validation"], counts["test"], exact=True)
    return with_counts(plan, exact, notes)


def _deciding(plan: Plan) -> tuple[PackedColumn, ...]:
    """The columns that decide who takes part, and on which side."""
    columns = plan.columns
    found = {column for column in (columns.target, columns.split, columns.weight) if column}
    found |= {column.packed[0] for column in columns.inputs if column.missing == "drop"}
    return tuple(sorted(found))


def _packed(plan: Plan, columns: tuple[PackedColumn, ...]) -> Prepared:
    """The source as `prepare` packs it, one shard for each piece that is read."""
    data = plan.job.spec.data
    names = sorted({column.name for column in columns})
    shards, segments, offsets, filtered = [], [], [0], 0
    schema = plan.catalog.schema
    for piece in read_groups(plan.catalog.row_groups, schema, names, data.filter):
        filtered += piece.num_read - len(piece.rows)
        if not len(piece.rows):
            continue
        batch, _ = pack_table(piece.table, columns, piece.rows if data.filter else None)
        shards.append(unpack(batch))
        segments.append((Segment(piece.path, int(piece.rows[0]), len(piece.rows)),))
        offsets.append(offsets[-1] + len(piece.rows))
    if not shards:
        what = "leaves no row" if data.filter is not None else "the source holds no row"
        raise DataError(plan.job.problem("data.filter" if data.filter else "data.source", what))
    stream = None
    if data.ingest == "stream":
        bounds = tuple(sieve_of(plan).bounds)
        stream = StreamFacts((), np.empty(0, np.int64), {}, bounds, schema)
    return Prepared(
        Path(), "", tuple(shards), tuple(segments), np.array(offsets, np.int64), {},
        filtered, stream,
    )  # fmt: skip
