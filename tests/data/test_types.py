"""Every type of column: the same numbers in training and in `predict`, and the right ones."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.data import prepare as prepare_module
from heliostat.data import units
from heliostat.data.encode import FIRST_VALUE, MISSING, Encoder
from heliostat.data.fit import fit_encoder
from heliostat.data.pack import pack_table, unpack
from heliostat.data.reader import RowReader
from heliostat.errors import PlanError, UserError
from tests.data.packing import plan_of, prepare_here

numbers = st.none() | st.floats(width=32, allow_nan=True, allow_infinity=True)
words = st.none() | st.sampled_from(["", "a", "A b", "b, c. b", "déjà vu", "日本 語", "x_1 2"])
moments = st.none() | st.datetimes(datetime.datetime(1901, 1, 1), datetime.datetime(2100, 1, 1))
rows = st.fixed_dictionaries(
    {
        "f": numbers,
        "i": st.none() | st.integers(-(2**62), 2**62),
        "m": st.none() | st.decimals(-9999, 9999, places=2),
        "b": st.none() | st.booleans(),
        "c": st.none() | st.sampled_from(["red", "green", "Zoë"]),
        "h": st.none() | st.text(max_size=4),
        "t": moments,
        "d": st.none() | st.dates(),
        "v": st.none() | st.lists(numbers, min_size=3, max_size=3),
        "w": words,
        "k": words,
    }
)
SCHEMA = pa.schema(
    {
        "f": pa.float64(), "i": pa.int64(), "m": pa.decimal128(6, 2), "b": pa.bool_(),
        "c": pa.dictionary(pa.int32(), pa.string()), "h": pa.large_string(),
        "t": pa.timestamp("us"), "d": pa.date32(), "v": pa.list_(pa.float32(), 3),
        "w": pa.string(), "k": pa.string(), "y": pa.float64(),
    }
)  # fmt: skip
FEATURES = """
    f: {type: number, missing: median, indicator: true, clip: {low: 0.1, high: 0.9}}
    i: {type: number, exact: true}
    h: {type: category, buckets: 16}
    w: {type: text, buckets: 8, max_tokens: 3}
    k: TOKENS
    "*": auto
"""
SEEN = {
    "f": 1.0, "i": 2**60, "m": decimal.Decimal("1.5"), "b": True, "c": "red", "h": "h",
    "t": datetime.datetime(2020, 1, 2), "d": datetime.date(2020, 1, 2), "v": [1.0, 2.0, 3.0],
    "w": "a b", "k": "b c",
}  # fmt: skip


def make_plan(folder, table: pa.Table, features: str, kind: str = "mlp", **write):
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "a.parquet", **write)
    job = folder.parent / "job.yaml"
    job.write_text(
        f"name: t\ndata:\n  source: {folder}\n  target: y\n  task: regression\n"
        "  split: {method: random, validation: 0, test: 0}\n"
        f"  features: {features}\nmodel: {{kind: {kind}}}\n"
    )
    return plan_of(job)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.lists(rows, min_size=1, max_size=12), group=st.integers(1, 5),
    unit=st.integers(1, 9), kind=st.sampled_from(["mlp", "xgboost"]), data=st.data(),
)  # fmt: skip
def test_predict_sees_what_training_saw(
    tmp_path_factory, monkeypatch, tokenizer, values, group, unit, kind, data
):
    """Whatever the values, layout and slices: the transforms that `model.json` keeps give
    `predict` the very bits that training read.
    """
    folder = tmp_path_factory.mktemp("types")
    values = [row | {"y": float(i)} for i, row in enumerate([SEEN, *values])]
    table = pa.Table.from_pylist(values, SCHEMA)
    monkeypatch.setattr(units, "ROWS_PER_UNIT", unit)
    monkeypatch.setattr(prepare_module, "ROWS_PER_UNIT", unit)
    tokens = f"{{type: text, tokenizer: {tokenizer}, max_tokens: 2}}"
    features = FEATURES.replace("TOKENS", tokens if kind == "mlp" else "ignore")
    plan = make_plan(folder / "d", table, features, kind, row_group_size=group)
    prepared = prepare_here(plan, folder / "prepared", monkeypatch)
    n = len(values)
    train = np.unique(data.draw(st.lists(st.integers(1, n - 1))) + [0])
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, train)
    trained = RowReader(prepared, encoder).inputs(np.arange(n))
    assert trained.numbers.shape == (n, encoder.num_numbers)
    stored = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    columns = tuple(sorted(packed for c in plan.columns.inputs for packed in c.packed))
    start = data.draw(st.integers(0, n - 1))
    batch, _ = pack_table(table.slice(start), columns)
    served = stored.encode(unpack(batch))
    assert np.array_equal(served.numbers, trained.numbers[start:], equal_nan=True)
    assert np.array_equal(served.categories, trained.categories[start:])
    if kind == "mlp":
        assert np.isfinite(served.numbers).all()


def encoded(tmp_path, monkeypatch, table: pa.Table, features: str, kind: str = "mlp"):
    table = table.append_column("y", pa.array(np.arange(float(len(table)))))
    plan = make_plan(tmp_path / "d", table, features, kind)
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(len(table)))
    return encoder, RowReader(prepared, encoder).inputs(np.arange(len(table)))


def test_a_time_becomes_the_parts_of_its_calendar(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    times = [
        datetime.datetime(1960, 1, 1) + datetime.timedelta(seconds=int(seconds))
        for seconds in rng.integers(0, 4_000_000_000, 500)
    ]
    parts = ["year", "month", "day", "weekday", "day_of_year", "hour", "minute", "elapsed"]
    features = f"{{t: {{type: time, scale: none, parts: [{', '.join(parts)}]}}}}"
    table = pa.table({"t": pa.array([*times, None], pa.timestamp("ms"))})
    _, inputs = encoded(tmp_path, monkeypatch, table, features, "xgboost")
    epoch = datetime.datetime(1970, 1, 1)
    expected = [
        [t.year, t.month, t.day, t.weekday(), t.timetuple().tm_yday, t.hour, t.minute,
         (t - epoch).total_seconds() / 86_400]
        for t in times
    ]  # fmt: skip
    assert np.array_equal(inputs.numbers[:-1], np.array(expected, np.float32))
    assert np.isnan(inputs.numbers[-1]).all()


def test_words_are_weighted_by_how_rare_they_are(tmp_path, monkeypatch):
    texts = ["the cat sat", "The dog, the DOG!", "", None, "cat & cat", "a b c d e the"]
    features = "{w: {type: text, buckets: 4096, max_tokens: 5}}"
    encoder, inputs = encoded(tmp_path, monkeypatch, pa.table({"w": texts}), features)
    lists = [re.findall(r"\w+", (text or "").lower())[:5] for text in texts]
    rows_with = Counter(word for found in lists for word in set(found))
    for found, row in zip(lists, inputs.numbers, strict=True):
        idf = {word: math.log((1 + len(texts)) / (1 + rows_with[word])) + 1 for word in found}
        expected = np.array(sorted(found.count(word) * idf[word] for word in set(found)))
        expected = expected / (np.linalg.norm(expected) or 1)
        assert np.allclose(np.sort(row[row > 0]), expected, rtol=1e-6)


def test_buckets_hold_any_number_of_values(tmp_path, monkeypatch):
    users = [f"user {i}" for i in range(5000)] + ["user 0", None]
    table = pa.table({"u": users})
    features = "{u: {type: category, buckets: 64}}"
    encoder, inputs = encoded(tmp_path, monkeypatch, table, features)
    codes = inputs.categories[:, 0]
    assert encoder.cardinalities == (66,) and codes[0] == codes[5000] and codes[-1] == MISSING
    assert set(codes[:-1].tolist()) == set(range(FIRST_VALUE, 66))
    assert encoder.categories[0].values == ()


def test_exact_numbers_keep_differences_that_float32_loses(tmp_path, monkeypatch):
    ids = pa.array([10**12 + i for i in range(100)], pa.int64())
    for exact, distinct in ((True, 100), (False, 1)):
        features = f"{{i: {{type: number, exact: {str(exact).lower()}}}, k: number}}"
        table = pa.table({"i": ids, "k": np.arange(100.0)})
        encoder, inputs = encoded(tmp_path, monkeypatch, table, features)
        place = [number.name for number in encoder.numbers].index("i")
        assert len(np.unique(inputs.numbers[:, place])) == distinct
    notes = make_plan(tmp_path / "d", table.append_column("y", ids), features).notes
    assert any("`i` holds 1,000,000,000,099" in note and "exact: true" in note for note in notes)


OWN = """
import numpy as np
class Rank:
    def fit(self, columns):
        assert len(columns["x"])
        return {"n": len(columns["x"]), "total": float(np.nansum(columns["x"]))}
    def merge(self, a, b):
        return {key: a[key] + b[key] for key in a}
    def apply(self, columns, state):
        mean = state["total"] / state["n"]
        late = (columns["t"] > np.datetime64("2020-01-01")).astype(float)
        return np.stack([columns["x"] - mean, late, [c == "red" for c in columns["c"]]], 1)
class Bad:
    def fit(self, columns): return None
    def merge(self, a, b): return None
    def apply(self, columns, state): return np.ones(3)
class Raises(Bad):
    def fit(self, columns): raise KeyError("nothing here")
class Objects(Bad):
    def merge(self, a, b): return {1, 2}
"""


@pytest.mark.parametrize("form", ["float32", "float64", "vector"])
def test_a_number_too_large_to_be_added_to_another_is_missing(tmp_path, monkeypatch, form):
    values = np.array([3.4e38, -3.4e38, 8e37, 7e37, -8e37, 8e37])
    kind = {"float32": pa.float32(), "float64": pa.float64(), "vector": pa.list_(pa.float32(), 1)}
    cells = values[:, None].tolist() if form == "vector" else values
    feature = "auto" if form == "vector" else "{type: number, missing: median, clip: {high: 0.9}}"
    table = pa.table({"f": pa.array(cells, kind[form])})
    encoder, inputs = encoded(tmp_path, monkeypatch, table, f"{{f: {feature}}}")
    assert np.isfinite(inputs.numbers).all() and np.ptp(inputs.numbers) > 1
    assert abs(encoder.numbers[0].fill) <= 8e37


def test_an_input_of_ones_own_is_fitted_merged_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "ROWS_PER_UNIT", 7)
    monkeypatch.setattr(prepare_module, "ROWS_PER_UNIT", 7)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(OWN)
    n = 60
    rng = np.random.default_rng(4)
    days = [datetime.datetime(2019, 12, 1) + datetime.timedelta(days=i) for i in range(n)]
    table = pa.table({
        "x": rng.normal(size=n), "t": pa.array(days, pa.timestamp("ms")),
        "c": rng.choice(["red", "blue"], n), "y": np.arange(float(n)),
    })  # fmt: skip
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / "a.parquet", row_group_size=7)

    def fitted(cls: str):
        (tmp_path / "job.yaml").write_text(
            f"name: t\ncode: {{path: own}}\ndata:\n  source: {tmp_path}/d\n  target: y\n"
            "  task: regression\n  split: {method: random, validation: 0, test: 0}\n"
            f'  features: {{mine: {{type: custom, class: "mine:{cls}", inputs: [x, t, c], '
            "scale: none}}\nmodel: {kind: mlp}\n"
        )
        plan = plan_of(tmp_path / "job.yaml")
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        train = np.arange(0, n, 3)
        code = str(tmp_path / "own")
        encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, train, code=code)
        return encoder, RowReader(prepared, encoder).inputs(np.arange(n)), train

    encoder, inputs, train = fitted("Rank")
    x = np.array(table["x"])
    expected = [x - x[train].mean(), np.arange(n) > 31, np.array(table["c"]) == "red"]
    assert np.allclose(inputs.numbers, np.stack(expected, 1), atol=1e-6)
    stored = json.loads(json.dumps(encoder.to_json()))
    assert stored["customs"][0]["state"]["n"] == len(train) and "own" not in str(stored["customs"])
    columns = tuple(sorted(encoder.customs[0].inputs))
    served = Encoder.from_json(stored, str(tmp_path / "own")).encode(
        unpack(pack_table(table.slice(40), columns)[0])
    )
    assert np.array_equal(served.numbers, inputs.numbers[40:])
    for cls, sentence in (
        ("Bad", "`apply` gave an array of shape"), ("Raises", "`fit`: KeyError: 'nothing here'"),
        ("Objects", "its state is no JSON value"), ("Nothing", "is no class"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(sentence)):
            fitted(cls)


def test_nested_columns_are_refused_with_the_remedy(tmp_path):
    table = pa.table({"s": [{"a": 1}], "l": [[1, 2]], "y": [1.0]})
    with pytest.raises(PlanError) as caught:
        make_plan(tmp_path / "d", table, '{"*": auto}')
    for name in "sl":
        assert f"column `{name}`" in str(caught.value) and f"write `{name}: ignore`" in str(
            caught.value
        )


def test_tokens_are_the_ids_of_their_tokenizer(tmp_path, monkeypatch, tokenizer):
    from tokenizers import Tokenizer

    texts = ["late again, and again", "", None, "on time" * 40]
    features = f"{{s: {{type: text, tokenizer: {tokenizer}, max_tokens: 8}}}}"
    encoder, inputs = encoded(tmp_path, monkeypatch, pa.table({"s": texts}), features)
    library = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    library.no_truncation()
    for text, codes in zip(texts, inputs.categories, strict=True):
        ids = library.encode(text).ids[:8] if text else []
        assert codes.tolist() == [*(token + 1 for token in ids), *[0] * (8 - len(ids))]
    assert encoder.token_shapes == ((library.get_vocab_size() + 1, 8),)


@pytest.mark.parametrize(
    ("feature", "kind", "sentence"),
    [
        ("{type: text, tokenizer: HERE}", "xgboost", "feeds networks, not a model of kind"),
        ("{type: text, tokenizer: HERE, buckets: 8}", "mlp", "takes the place of `buckets`"),
        ("{type: text, tokenizer: /nowhere}", "mlp", "holds no tokenizer.json.*save_pretrained"),
    ],
)
def test_a_tokenizer_that_cannot_serve_says_why(tmp_path, tokenizer, feature, kind, sentence):
    table = pa.table({"s": ["a"], "y": [1.0]})
    with pytest.raises(PlanError, match=sentence):
        make_plan(tmp_path / "d", table, f"{{s: {feature.replace('HERE', str(tokenizer))}}}", kind)
