"""Rows that repeat an earlier one, whatever ranges their hashes are compared in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.data import duplicates
from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import Prepared
from heliostat.plan.inputs import PackedColumn

COLUMNS = [PackedColumn("x", "number"), PackedColumn("c", "category"), PackedColumn("t", "text")]
rows = st.tuples(
    st.sampled_from([0.0, -0.0, 1.5, float("nan")]),
    st.sampled_from(["a", "b", None]),
    st.sampled_from(["sun", "sun moon", "moon sun", ""]),
    st.booleans(),
)


@given(
    st.lists(rows, min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sets(st.integers(0, 59)),
)
@settings(max_examples=150, deadline=None)
def test_the_first_kept_of_equal_rows_stays(table, per_shard, at_once, hashed):
    shards = []
    for start in range(0, len(table), per_shard):
        x, c, t, _ = zip(*table[start : start + per_shard], strict=True)
        arrays = pa.table({"x": pa.array(x, pa.float64()), "c": pa.array(c, pa.string()), "t": t})
        shards.append(unpack(pack_table(arrays, COLUMNS)[0]))
    offsets = np.cumsum([0, *(shard.num_rows for shard in shards)])
    first = Prepared.of_batch(shards[0])
    contents = {i: duplicates.content_hashes(shards[i]) for i in hashed if i < len(shards)}
    segments = ((),) * len(shards)
    prepared = Prepared(
        first.folder, "", tuple(shards), segments, offsets, {}, 0, contents=contents
    )
    keep = np.array([row[3] for row in table])
    seen, expected = set(), []
    for x, c, t, kept in table:
        value = ("nan" if np.isnan(x) else x + 0.0, c, t)
        expected.append(kept and value in seen)
        if kept:
            seen.add(value)
    before = duplicates.ROWS_COMPARED_AT_ONCE
    duplicates.ROWS_COMPARED_AT_ONCE = at_once
    try:
        np.testing.assert_array_equal(duplicates.repeats(prepared, keep), expected)
    finally:
        duplicates.ROWS_COMPARED_AT_ONCE = before
