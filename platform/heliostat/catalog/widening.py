"""Which type holds the values of several: the narrowest that loses none of them.

Where no type holds every value of the others (64-bit integers and doubles; nanoseconds and
years far away), the values themselves must be looked at: see `may_lose`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from pyarrow import types

MOST_DIGITS = {128: 38, 256: 76}
DIGITS_OF_DOUBLE = 15
SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
UNSIGNED = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
FLOATS = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}
EXACT_BITS = {16: 11, 32: 24, 64: 53}  # of integers in a float
UNITS = ("s", "ms", "us", "ns")


def common_types(given: Iterable[pa.DataType]) -> tuple[pa.DataType, ...]:
    """The types that may hold the values of all `given` types, the best first; none if no type
    can. Their order does not matter.
    """
    found = {type_ for type_ in given if not types.is_null(type_)}
    if len(found) < 2:
        return (_readable(found.pop()),) if found else (pa.null(),)
    plain = {_readable(type_.value_type) if types.is_dictionary(type_) else _readable(type_)
             for type_ in found}  # fmt: skip
    if len(plain) == 1:
        return tuple(plain)
    for join in (_numbers, _texts, _bytes, _times, _lists, _structs):
        if joined := join(plain):
            return joined
    return ()


def may_lose(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether only the values tell if those of `old` are the same as `new`."""
    if types.is_dictionary(old):
        old = old.value_type
    if types.is_integer(old) and types.is_floating(new):
        return bool(_magnitude_bits(old) > EXACT_BITS[new.bit_width])
    if types.is_integer(old) and types.is_integer(new):
        return bool(_magnitude_bits(old) > _magnitude_bits(new))
    if types.is_decimal(old) and types.is_floating(new):
        return bool(old.precision > DIGITS_OF_DOUBLE)
    if types.is_timestamp(new):
        unit = old.unit if types.is_timestamp(old) else "s"
        return bool(unit != new.unit and "ns" in (unit, new.unit))
    return bool(types.is_nested(old) and old != new)


def is_text(type_: pa.DataType) -> bool:
    """Whether its values are texts."""
    if types.is_dictionary(type_):
        return is_text(type_.value_type)
    return bool(
        types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_)
    )


def _readable(type_: pa.DataType) -> pa.DataType:
    """Few functions of Arrow take views."""
    if types.is_string_view(type_):
        return pa.string()
    return pa.binary() if types.is_binary_view(type_) else type_


def _magnitude_bits(type_: pa.DataType) -> int:
    return int(type_.bit_width - types.is_signed_integer(type_))


def _numbers(plain: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    integers = {type_ for type_ in plain if types.is_integer(type_)}
    floats = {type_ for type_ in plain if types.is_floating(type_)}
    decimals = {type_ for type_ in plain if types.is_decimal(type_)}
    if len(integers) + len(floats) + len(decimals) < len(plain):
        return ()
    if floats:
        return (_float(integers, floats, decimals),)
    return _decimal(integers, decimals) if decimals else _integer(integers)


def _float(
    integers: set[pa.DataType], floats: set[pa.DataType], decimals: set[pa.DataType]
) -> pa.DataType:
    bits = max(type_.bit_width for type_ in floats)
    needed = max((_magnitude_bits(type_) for type_ in integers), default=0)
    while bits < 64 and (decimals or needed > EXACT_BITS[bits]):
        bits *= 2
    return FLOATS[bits]


def _decimal(integers: set[pa.DataType], decimals: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    scale = max(0, *(type_.scale for type_ in decimals))
    whole = max(type_.precision - type_.scale for type_ in decimals)
    for type_ in integers:
        whole = max(whole, len(str(2 ** _magnitude_bits(type_))))
    if whole + scale <= MOST_DIGITS[128]:
        return (pa.decimal128(whole + scale, scale),)
    if whole + scale <= MOST_DIGITS[256]:
        return (pa.decimal256(whole + scale, scale),)
    return ()


def _integer(integers: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    unsigned = max((t.bit_width for t in integers if types.is_unsigned_integer(t)), default=0)
    signed = max((t.bit_width for t in integers if types.is_signed_integer(t)), default=0)
    if not signed:
        return (UNSIGNED[unsigned],)
    if unsigned < 64:
        return (SIGNED[max(signed, 2 * unsigned)],)
    return pa.int64(), pa.decimal128(20, 0)


def _texts(plain: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    return (pa.large_string(),) if all(map(is_text, plain)) else ()


def _bytes(plain: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    kinds = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    found = all(any(kind(type_) for kind in kinds) for type_ in plain)
    return (pa.large_binary(),) if found else ()


def _times(plain: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    """A wall clock's times and those of a zone have no type in common. Zones are read as UTC."""
    stamps = {type_ for type_ in plain if types.is_timestamp(type_)}
    dates = {type_ for type_ in plain if types.is_date(type_)}
    zones = {type_.tz for type_ in stamps} | ({None} if dates else set())
    if len(stamps) + len(dates) < len(plain) or (None in zones and len(zones) > 1):
        return ()
    if not stamps:
        return (pa.date32(),)
    zone = zones.pop() if len(zones) == 1 else "UTC"
    units = {type_.unit for type_ in stamps}
    finest = max(units, key=UNITS.index)
    choices = ("ns", "us") if finest == "ns" and (dates or len(units) > 1) else (finest,)
    return tuple(pa.timestamp(unit, zone) for unit in choices)


def _lists(plain: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    sizes = {type_.list_size if types.is_fixed_size_list(type_) else -1 for type_ in plain}
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if len(sizes) > 1 or not all(any(kind(type_) for kind in kinds) for type_ in plain):
        return ()
    size = sizes.pop()
    values = common_types(type_.value_type for type_ in plain)
    return tuple(pa.list_(v, size) if size >= 0 else pa.large_list(v) for v in values)


def _structs(plain: set[pa.DataType]) -> tuple[pa.DataType, ...]:
    """Fields by name, in the order of the alphabet where files differ."""
    if not all(types.is_struct(type_) for type_ in plain):
        return ()
    names = sorted({field.name for type_ in plain for field in type_})
    joined = []
    for name in names:
        found = [type_.field(name).type for type_ in plain if type_.get_field_index(name) >= 0]
        if not (common := common_types(found)):
            return ()
        joined.append(pa.field(name, common[0]))
    return (pa.struct(joined),)
