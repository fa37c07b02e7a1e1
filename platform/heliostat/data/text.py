"""Texts as lists of small numbers, row after row: hashes of words, or ids of tokens."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.data.hashing import value_hashes
from heliostat.errors import Problem, UserError
from heliostat.plan.columns import Columns
from heliostat.plan.inputs import TOKENIZER_FILE, InputColumn
from heliostat.storage.cache import local_copy
from heliostat.storage.files import write_bytes
from heliostat.storage.objects import StorePath, as_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROWS_AT_ONCE = 1_024
KEPT = ".tokenizers"  # beside the prepared copies


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The canonical text of a category's values; NaN is missing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column if column.type == pa.string() else column.cast(pa.string())


def text_words(column: pa.ChunkedArray) -> pa.LargeListArray:
    """Hashes of each row's words: letters, digits and underscores, in any script; no text, no
    words.
    """
    words = pc.split_pattern_regex(pc.utf8_lower(as_text(column)), r"[^\p{L}\p{N}_]+")
    words = words.combine_chunks()
    rows = pc.list_parent_indices(words).to_numpy()
    coded = words.flatten().dictionary_encode()
    table = (value_hashes(0, coded.dictionary.to_pylist()) >> np.uint64(32)).astype(np.uint32)
    real = np.array([word != "" for word in coded.dictionary.to_pylist()], bool)
    codes = coded.indices.to_numpy()
    kept = real[codes] if len(real) else np.empty(0, bool)
    counts = np.bincount(rows[kept], minlength=len(column))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    hashes = table[codes[kept]] if len(table) else np.empty(0, np.uint32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(hashes))


def token_ids(column: pa.ChunkedArray, folder: str) -> pa.LargeListArray:
    """Ids of each row's tokens, all of them, by the tokenizer in `folder`; no text, no tokens."""
    tokenizer = load_tokenizer(folder)
    texts = as_text(column)
    lengths, ids = [np.zeros(1, np.int64)], []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        part = texts.slice(start, ROWS_AT_ONCE).to_pylist()
        found = tokenizer.encode_batch([text or "" for text in part])
        own = [one.ids if text else [] for one, text in zip(found, part, strict=True)]
        lengths.append(np.array([len(row) for row in own], np.int64))
        ids.append(np.array([token for row in own for token in row], np.uint32))
    offsets = np.cumsum(np.concatenate(lengths))
    flat = np.concatenate(ids) if ids else np.empty(0, np.uint32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))


def keep_tokenizers(columns: Columns, folder: StorePath) -> Columns:
    """`columns` with their tokenizers copied below `folder`, where every node finds them."""
    return replace(columns, inputs=tuple(_kept(column, folder) for column in columns.inputs))


def _kept(column: InputColumn, folder: StorePath) -> InputColumn:
    if column.kind != "tokens":
        return column
    kept = folder / KEPT / column.tokenizer_digest
    if not (kept / TOKENIZER_FILE).exists():
        write_bytes(
            kept / TOKENIZER_FILE, (as_path(column.tokenizer) / TOKENIZER_FILE).read_bytes()
        )
    return replace(column, tokenizer=str(kept))


@lru_cache(maxsize=8)
def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer in `folder`, which neither cuts nor pads.

    Raises:
        UserError: the library is not installed, or the file is not one of its own.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a task has one CPU
    try:
        from tokenizers import Tokenizer
    except ImportError:
        message = "tokenizers are read by the package `tokenizers`, which is not installed"
        remedy = "pip install 'heliostat[text]'"
        raise UserError(Problem("data.features", message, remedy)) from None
    file = local_copy(as_path(folder)) / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # it raises nothing more precise
        raise UserError(Problem(str(file), f"is no tokenizer: {error}")) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
