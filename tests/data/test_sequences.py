"""Documents packed into sequences: every token is learned once, prompts are not, and what a
sequence holds is what the stream holds there.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import Prepared
from heliostat.data.sequences import SequenceReader
from heliostat.plan.inputs import PackedColumn

END = 256
texts = st.lists(st.text(max_size=30), min_size=1, max_size=20)


def prepared_of(table: pa.Table) -> Prepared:
    columns = [PackedColumn(name, "tokens:bytes", "bytes") for name in table.column_names]
    return Prepared.of_batch(unpack(pack_table(table, columns)[0]))


def read_all(reader: SequenceReader):
    every = np.arange(reader.num_sequences)
    read = reader.encoded(every, every)
    np.testing.assert_array_equal(read.weights.sum(1), reader.weights(every))
    return read.inputs.categories, read.target, read.weights > 0


@given(texts, st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_every_token_of_a_text_is_learned_once_and_in_order(documents, max_tokens):
    prepared = prepared_of(pa.table({"text": pa.array(documents, pa.string())}))
    reader = SequenceReader(prepared, np.arange(len(documents)), "text", None, END, max_tokens)
    written = [list(text.encode()) for text in documents if text]
    stream = [END] + [token for text in written for token in (*text, END)]
    tokens, targets, counted = read_all(reader)
    assert reader.num_documents == len(written)
    if written:
        np.testing.assert_array_equal(tokens[counted], stream[:-1])
        np.testing.assert_array_equal(targets[counted], stream[1:])
    assert (tokens[~counted] == END).all()


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=20),
       st.integers(2, 40))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_prompt_is_seen_and_not_learned(pairs, max_tokens):
    prompts, answers = zip(*pairs, strict=True)
    table = pa.table({"ask": pa.array(prompts, pa.string()), "say": pa.array(answers, pa.string())})
    rows = np.arange(len(pairs))
    reader = SequenceReader(prepared_of(table), rows, "say", "ask", END, max_tokens)
    tokens, targets, counted = read_all(reader)
    learned, seen = [], []
    for prompt, answer in ((p.encode(), a.encode()) for p, a in pairs if a):
        whole = [END, *prompt, *answer]
        seen.append(whole[:max_tokens])
        learned += (
            [*answer, END] if len(whole) <= max_tokens else whole[1 + len(prompt) : max_tokens]
        )
    np.testing.assert_array_equal(targets[counted], learned)
    # No document is divided: each stands whole in one sequence.
    held = [list(map(int, row)) for row in tokens]
    for document in seen:
        assert any(
            row[at : at + len(document)] == document
            for row in held
            for at in range(max_tokens - len(document) + 1)
        )


def test_rows_of_several_shards_and_any_subset_are_found():
    shards = [["ab", "c"], ["", "def"], ["gh"]]
    parts = [prepared_of(pa.table({"text": part})).shards[0] for part in shards]
    offsets = np.cumsum([0, *map(len, shards)])
    whole = Prepared(parts and prepared_of(pa.table({"text": ["x"]})).folder, "", tuple(parts),
                     ((),) * 3, offsets, {}, 0)  # fmt: skip
    reader = SequenceReader(whole, np.array([0, 3, 4]), "text", None, END, 4)
    tokens, _, counted = read_all(reader)
    np.testing.assert_array_equal(tokens[counted], [END, *b"ab", END, *b"def", END, *b"gh"])
