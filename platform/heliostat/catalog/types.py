"""Arrow types in words, as a model keeps them, and back."""

from __future__ import annotations

import re

import pyarrow as pa

_DECIMAL = re.compile(r"decimal(32|64|128|256)\((\d+), (-?\d+)\)")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")
_LIST = re.compile(r"fixed_size_list<.*?: (.+?)(?: not null)?>\[(\d+)\]")
_DICTIONARY = re.compile(r"dictionary<values=(.+), indices=\w+, ordered=\d>")


def type_name(type_: pa.DataType) -> str:
    """The type in words; a dictionary is what its values are."""
    return str(type_.value_type if pa.types.is_dictionary(type_) else type_)


def type_of(name: str) -> pa.DataType | None:
    """The type that `type_name` (or `str`) has put into words; None if it is none that a model
    can read.
    """
    if found := _DICTIONARY.fullmatch(name):
        return type_of(found[1])
    if found := _DECIMAL.fullmatch(name):
        make = {"32": pa.decimal32, "64": pa.decimal64, "128": pa.decimal128, "256": pa.decimal256}
        return make[found[1]](int(found[2]), int(found[3]))
    if found := _ZONED.fullmatch(name):
        return pa.timestamp(found[1], found[2])
    if found := _LIST.fullmatch(name):
        value = type_of(found[1])
        return None if value is None else pa.list_(value, int(found[2]))
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None
