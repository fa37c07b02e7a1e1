"""How a delimited file is written: its names, its delimiter and its encoding, from its first
bytes; and what of it `data.read` says wrongly.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa

from heliostat.catalog.inference import number_pattern
from heliostat.catalog.places import open_file, suffix_of
from heliostat.errors import DataError, Problem, SettingError
from heliostat.spec.read import ReadSpec

SAMPLE_BYTES, SAMPLE_ROWS = 1 << 18, 1000
DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = (";", "\t", "|", ",")
SEARCHED_BYTES = 1 << 26
UNDEFINED_IN_CP1252 = frozenset(b"\x81\x8d\x8f\x90\x9d")
YEARS = range(1900, 2101)
Rows = list[list[str]]


@dataclass(frozen=True)
class Dialect:
    """`rows_before` are lines before the first row of data, and `is_empty` says there is none."""

    names: tuple[str, ...]
    delimiter: str
    encoding: str
    rows_before: int
    is_empty: bool


def look(stream: pa.NativeFile, location: str, read: ReadSpec) -> Dialect:
    """Read the first bytes of a file.

    Raises:
        SettingError: the file is written in another way than `read` says.
        DataError: the file is empty.
    """
    delimiter = read.delimiter or DELIMITERS[suffix_of(location)]
    text, rows, is_whole = _sample(stream, location, read, delimiter)
    if not rows:
        raise DataError(Problem(location, "is empty: it has no header"))
    is_sure = read.delimiter is not None and len(rows[0]) > 1
    if not is_sure:
        _check_delimiter(text, rows, delimiter, is_whole, location)
    listed = read.header if isinstance(read.header, tuple) else None
    if listed is not None and list(listed) != rows[0]:
        _check_listed(rows, listed, location, read)
        return Dialect(listed, delimiter, read.encoding, 0, False)
    if read.header is None:
        _check_header(rows, location, read)
    blank = len(text[: len(text) - len(text.lstrip("\r\n"))].splitlines())
    is_empty = is_whole and len(rows) == 1
    return Dialect(tuple(rows[0]), delimiter, read.encoding, blank + 1, is_empty)


def encoding_problem(location: str, read: ReadSpec) -> SettingError:
    """What to say of a file whose bytes are not text in the encoding of `read`."""
    with open_file(location) as stream:
        raw = stream.read(SEARCHED_BYTES)
    what = f"its bytes are not {read.encoding.upper()}"
    return _wrong(location, what, {"encoding": _likely_encoding(raw)}, "it may be: write")


def _sample(
    stream: pa.NativeFile, location: str, read: ReadSpec, delimiter: str
) -> tuple[str, Rows, bool]:
    """The text of the first bytes, the rows in it, and whether that is all of the file."""
    size, raw = SAMPLE_BYTES, b""
    while True:
        raw += stream.read(size)
        is_whole = len(raw) < size
        text = _decoded(raw, is_whole, location, read)
        rows, is_complete = _rows(text, delimiter, is_whole)
        if rows or is_whole or not is_complete:
            return text, rows, is_whole and is_complete
        size *= 8  # names without end


def _decoded(raw: bytes, is_whole: bool, location: str, read: ReadSpec) -> str:
    is_utf8 = codecs.lookup(read.encoding).name in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder("utf-8-sig" if is_utf8 else read.encoding)()
    try:
        text = decoder.decode(raw, is_whole)
    except UnicodeDecodeError:
        raise encoding_problem(location, read) from None
    if "\0" in text:
        raise encoding_problem(location, read)
    if not text.isascii() and not is_utf8 and _is_utf8(raw):
        hint = "leave `encoding` out, or write"
        raise _wrong(location, "its bytes are UTF-8", {"encoding": "utf-8"}, hint)
    return text


def _is_utf8(raw: bytes) -> bool:
    """Whether bytes are UTF-8, perhaps cut; text in another encoding hardly ever is, by chance."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return False
    return b"\0" not in raw


def _likely_encoding(raw: bytes) -> str:
    """The encoding of bytes that are not what they were taken for."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in raw:
        return "utf-16-be" if raw[0] == 0 else "utf-16-le"
    if _is_utf8(raw):
        return "utf-8"
    is_windows = any(0x80 <= byte < 0xA0 for byte in set(raw))
    return "cp1252" if is_windows and not UNDEFINED_IN_CP1252 & set(raw) else "latin-1"


def _rows(text: str, delimiter: str, is_whole: bool) -> tuple[list[list[str]], bool]:
    """The first rows, without spaces around their values and without empty ones; and whether none
    was too long to be looked at.
    """
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in islice(reader, SAMPLE_ROWS):
            if row:
                rows.append([value.strip(" \t") for value in row])
    except csv.Error:
        return rows, False
    is_cut = not is_whole and next(reader, None) is None
    return rows[:-1] if is_cut else rows, True


def _check_delimiter(text: str, rows: Rows, delimiter: str, is_whole: bool, location: str) -> None:
    """Complain of a header that holds another delimiter, which divides every row alike."""
    for other in OTHER_DELIMITERS:
        if other == delimiter or not any(other in name for name in rows[0]):
            continue
        divided, _ = _rows(text, other, is_whole)
        counts = {len(row) for row in divided}
        if len(counts) == 1 and counts != {1}:
            shown = rows[0][0] if len(rows[0]) == 1 else delimiter.join(rows[0])
            what = f"its header is `{shown[:80]}`, which `{_shown(other)}` divides, as every row"
            raise _wrong(location, what, {"delimiter": other})


def _check_header(rows: Rows, location: str, read: ReadSpec) -> None:
    """Complain of a first row that holds data."""
    names, columns = rows[0], [_values(rows[1:], i, read) for i in range(len(rows[0]))]
    over = [
        name for name, values in zip(names, columns, strict=True)
        if _is_number(name, read) and _are_numbers(values, read)
    ]  # fmt: skip
    again = [name for name, values in zip(names, columns, strict=True) if name in values]
    if over and not _are_counted(names):
        what = f"`{over[0]}` stands where a name should, above numbers"
    elif 2 * len(again) > len(names):
        what = f"`{again[0]}` stands where a name should, and again below it"
    else:
        return
    made = tuple(f"column_{i + 1}" for i in range(len(names)))
    hint = (
        f"write `data.read: {{header: [...]}}` with names for its {len(names)} columns; "
        "or `header: true` if these are the names"
    )
    message = f"its first row looks like data: {what}"
    raise SettingError(Problem(location, message, hint), {"header": made})


def _check_listed(rows: Rows, listed: Sequence[str], location: str, read: ReadSpec) -> None:
    """Complain of listed names that do not fit, or of a first row that holds others."""
    if len(rows[0]) != len(listed):
        what = f"has {len(rows[0])} columns; `data.read.header` names {len(listed)}"
        raise DataError(Problem(location, what))
    columns = [_values(rows[1:], i, read) for i in range(len(listed))]
    words = [
        not _is_number(name, read) and name not in read.missing and name != ""
        for name, values in zip(rows[0], columns, strict=True)
        if _are_numbers(values, read)
    ]
    if words and all(words):
        what = f"its first row holds names, such as `{rows[0][0]}`"
        hint = "leave `data.read.header` out, or use the same names"
        raise SettingError(Problem(location, what, hint), {"header": None})


def _values(rows: Rows, column: int, read: ReadSpec) -> set[str]:
    found = {row[column] for row in rows if len(row) > column}
    return found - {"", *read.missing}


def _are_numbers(values: set[str], read: ReadSpec) -> bool:
    return bool(values) and all(_is_number(value, read) for value in values)


def _is_number(text: str, read: ReadSpec) -> bool:
    return any(map(str.isdigit, text)) and re.match(number_pattern(read), text) is not None


def _are_counted(names: Sequence[str]) -> bool:
    """Whether the numbers among names are numbers of columns, or years."""
    numbers = [name for name in names if any(map(str.isdigit, name[:1]))]
    if not all(name.isdecimal() for name in numbers):
        return False
    steps = [int(after) - int(before) for before, after in pairwise(numbers)]
    years = all(int(name) in YEARS for name in numbers) and all(step > 0 for step in steps)
    first = numbers == ["0"] and names[0] == ""  # a series of pandas, beside its index
    return first or (bool(steps) and (years or set(steps) == {1}))


def _wrong(location: str, what: str, settings: dict[str, Any], hint: str = "write") -> SettingError:
    written = ", ".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()
    )
    return SettingError(Problem(location, what, f"{hint} `data.read: {{{written}}}`"), settings)


def _shown(delimiter: str) -> str:
    return "\\t" if delimiter == "\t" else delimiter
