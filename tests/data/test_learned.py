"""Values of another type than a model learned: the same value, or refused with an example."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliostat.catalog.types import type_name, type_of
from heliostat.data.learned import as_learned, have_one_text, learned_target
from heliostat.data.text import as_text
from heliostat.errors import DataError
from heliostat.plan.inputs import PackedColumn

NUMBERS = [
    pa.int8(), pa.int64(), pa.uint16(), pa.uint64(), pa.float32(), pa.float64(),
    pa.decimal128(9, 2), pa.decimal128(20, 0),
]  # fmt: skip
MOMENT = datetime.datetime(2020, 1, 2)


def learned(values: pa.Array, form: str, type_: pa.DataType) -> pa.ChunkedArray:
    column = PackedColumn("c", form)
    return as_learned(pa.table({"c": values}), [column], {"c": type_name(type_)}, "f.parquet")["c"]


def is_held(value: object, type_: pa.DataType) -> bool:
    """Whether a type of this kind has the very value, whatever its width."""
    exact = decimal.Decimal(str(value))
    if pa.types.is_integer(type_):
        return exact == int(exact) and (type_ != pa.uint64() or exact >= 0)
    if pa.types.is_decimal(type_):
        return exact == round(exact, type_.scale)
    nearest = (np.float32 if type_ == pa.float32() else np.float64)(value)
    return decimal.Decimal(str(float(nearest))) == exact  # 0.10 is the double that 0.1 is


@settings(deadline=None)
@example(values=[2**40], was=pa.float32(), now=pa.int64())
@example(values=[0.1], was=pa.float64(), now=pa.decimal128(9, 2))
@given(
    values=st.lists(st.none() | st.integers(-9, 9) | st.sampled_from([0.5, 1.25, 2**40, 0.1])),
    was=st.sampled_from(NUMBERS), now=st.sampled_from(NUMBERS),
)  # fmt: skip
def test_a_category_of_numbers_compares_by_value(values, was, now):
    """Each value is itself in the learned type and has the text that it had there; or the first
    that is not is named, with both types.
    """
    if pa.types.is_decimal(now) and was == pa.float32():
        values = [v for v in values if v != 0.1]  # its digits are those of the nearest float32
    values = [v for v in values if v is None or is_held(v, now)]
    values = [v for v in values if v is None or v >= 0 or now not in (pa.uint16(), pa.uint64())]
    values = [v for v in values if v is None or v < 99 or now in (pa.int64(), pa.float64())]
    make = decimal.Decimal if pa.types.is_decimal(now) else float
    found = pa.array([None if v is None else make(str(v)) for v in values])
    found = found.cast(now, safe=now != pa.float32())
    present = [value for value in found.to_pylist() if value is not None]
    strange = [value for value in present if not is_held(value, was)]
    if strange:
        with pytest.raises(DataError) as caught:
            learned(found, "category", was)
        words = f"`c` ({now}) holds `{strange[0]}`, which is no {was}"
        assert words in str(caught.value)
        return
    cast = learned(found, "category", was)
    assert list(map(float, cast.drop_null().to_pylist())) == list(map(float, present))
    for text, value in zip(as_text(cast.drop_null()).to_pylist(), present, strict=True):
        if abs(value) < 99 and (value >= 0 or was != pa.uint16()):  # it fits the learned width
            make = decimal.Decimal if pa.types.is_decimal(was) else float
            narrow = pa.array([make(str(value))])
            narrow = narrow.cast(was, safe=was != pa.float32())
            assert text == as_text(pa.chunked_array([narrow]))[0].as_py()


@pytest.mark.parametrize(
    ("form", "was", "values", "words"),
    [
        ("category", pa.string(), [1], "is int64 (for example `1`); the model learned it as string"),
        ("category", pa.string(), [MOMENT.date()], "is date32[day] (for example `2020-01-02`)"),
        ("category", pa.string(), [True], "is bool (for example `True`)"),
        ("category", pa.bool_(), ["True"], "is string (for example `True`)"),
        ("category", pa.bool_(), [0, 1, 2], "(int64) holds `2`, which is no bool"),
        ("category", pa.int64(), [1.0, 1.5], "(double) holds `1.5`, which is no int64"),
        ("category", pa.decimal128(3, 2), [1.0, 1.005], "(double) holds `1.005`"),
        ("number", pa.float64(), ["1"], "is string (for example `1`); the model learned it as double"),
        ("number", pa.bool_(), [0.5], "holds `0.5`, which is no bool"),
        ("time", pa.timestamp("us"), ["2020-01-02"], "is string (for example `2020-01-02`)"),
        ("time", pa.timestamp("us", "UTC"), [MOMENT], "learned it as timestamp[us, tz=UTC]"),
        ("time", pa.date32(), [MOMENT, MOMENT.replace(hour=1)], "holds `2020-01-02 01:00:00`"),
        ("text", pa.string(), [1], "is int64"),
        ("tokens:abc", pa.string(), [1], "is int64"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_value_is_refused_with_an_example(form, was, values, words):
    with pytest.raises(DataError) as caught:
        learned(pa.array(values), form, was)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("form", "was", "values"),
    [
        ("category", pa.string(), pa.array(["a", None]).dictionary_encode()),
        ("category", pa.dictionary(pa.int32(), pa.string()), pa.array(["a"], pa.string_view())),
        ("category", pa.string(), pa.nulls(2)),
        ("category", pa.bool_(), pa.array([1, 0, None])),
        ("category", pa.int8(), pa.array([1.0, float("nan"), 300.0])),
        ("number", pa.int8(), pa.array([1.5, 1e9])),
        ("number", pa.float32(), pa.array([0.1])),
        ("exact", pa.int64(), pa.array([decimal.Decimal("1.5")])),
        ("time", pa.timestamp("us"), pa.array([MOMENT.date()])),
        ("time", pa.timestamp("ns"), pa.array([MOMENT], pa.timestamp("s"))),
        ("time", pa.timestamp("us", "UTC"), pa.array([MOMENT], pa.timestamp("ms", "Asia/Tokyo"))),
        ("time", pa.date32(), pa.array([MOMENT])),
        ("vector", pa.list_(pa.float32(), 2), pa.array([[1, 2]], pa.list_(pa.int32(), 2))),
        ("vector", pa.list_(pa.float32(), 2), pa.nulls(1)),
    ],
)
def test_what_is_the_same_value_is_taken(form, was, values):
    taken = [None if v != v else v for v in learned(values, form, was).to_pylist()]
    given = [None if v != v else v for v in values.to_pylist()]
    if form == "time":
        taken, given = [str(v)[:10] for v in taken], [str(v)[:10] for v in given]
    assert taken == given


@pytest.mark.parametrize(
    "type_",
    [
        pa.int32(), pa.float64(), pa.bool_(), pa.large_string(), pa.date32(), pa.decimal128(6, 2),
        pa.decimal256(50, -3), pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin"),
        pa.list_(pa.float32(), 3), pa.list_(pa.decimal128(5, 2), 2),
    ],
)  # fmt: skip
def test_a_type_is_read_from_its_words(type_):
    assert type_of(type_name(type_)) == type_
    assert learned_target("category", None, pa.dictionary(pa.int8(), pa.string())) == pa.string()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("int8", "int64", True), ("int64", "double", False), ("double", "float", False),
        ("decimal128(3, 2)", "decimal128(9, 2)", True), ("string", "large_string", True),
        ("decimal128(3, 2)", "decimal128(3, 1)", False), ("int64", "string", False),
        ("bool", "bool", True), ("bool", "int8", False), ("double", "decimal128(3, 2)", False),
    ],
)  # fmt: skip
def test_a_vocabulary_holds_for_types_with_the_same_texts(one, other, same):
    assert have_one_text(one, other) is same and have_one_text(other, one) is same
