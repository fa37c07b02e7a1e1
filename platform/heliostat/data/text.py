"""Texts as lists of small numbers, row after row: hashes of words, or ids of tokens."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.vocabulary import BYTES, SETTINGS_FILE, TOKENIZER_FILE
from heliostat.data.hashing import value_hashes
from heliostat.errors import Problem, UserError
from heliostat.plan.columns import Columns
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
    texts = as_text(column)
    if folder == BYTES:
        return _bytes(texts)
    tokenizer = load_tokenizer(folder)
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


def _bytes(texts: pa.ChunkedArray) -> pa.LargeListArray:
    """A token for each byte of UTF-8."""
    whole = pc.fill_null(texts, "").cast(pa.large_binary()).combine_chunks()
    _, offsets, content = whole.buffers()
    starts = np.frombuffer(offsets, np.int64, len(whole) + 1, whole.offset * 8)
    flat = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
    own = flat[starts[0] : starts[-1]].astype(np.uint32)
    return pa.LargeListArray.from_arrays(pa.array(starts - starts[0]), pa.array(own))


def keep_tokenizers(columns: Columns, folder: StorePath) -> Columns:
    """`columns` with their tokenizers copied below `folder`, where every node finds them."""
    target = columns.target
    if target.tokenizer:
        kept = _kept(target.tokenizer, target.form.partition(":")[2], folder)
        target = replace(target, tokenizer=kept)
    inputs = tuple(
        replace(column, tokenizer=_kept(column.tokenizer, column.tokenizer_digest, folder))
        if column.kind == "tokens"
        else column
        for column in columns.inputs
    )
    return replace(columns, inputs=inputs, target=target)


def _kept(tokenizer: str, digest: str, folder: StorePath) -> str:
    if tokenizer == BYTES:
        return tokenizer
    kept = folder / KEPT / digest
    for name in (SETTINGS_FILE, TOKENIZER_FILE):
        source = as_path(tokenizer) / name
        if source.exists() and not (kept / name).exists():
            write_bytes(kept / name, source.read_bytes())
    return str(kept)


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
