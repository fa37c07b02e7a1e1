"""One input of a model: its kind, and what is done about missing values and scale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heliostat.catalog.columns import Column
from heliostat.catalog.vocabulary import TOKENIZER_FILE
from heliostat.spec.data import (
    CategoryFeature,
    ConstantCategory,
    ConstantNumber,
    CustomFeature,
    NumberFeature,
    TextFeature,
    TimeFeature,
    VectorFeature,
)
from heliostat.spec.identity import DIGEST_LENGTH
from heliostat.spec.load import Job
from heliostat.storage.objects import as_path

Form = str  # number, exact, category, time, vector, text, or `tokens:DIGEST` of the tokenizer
TOKENS = "tokens"
InputKind = Literal["number", "category", "time", "vector", "text", "tokens", "custom"]


@dataclass(frozen=True)
class InputColumn:
    """A feature, with every `auto` resolved for the model.

    `missing` is keep, drop, mean, median, most_frequent, constant or own; `constant` its value.
    Numbers are clipped to the quantiles `clip_low` and `clip_high`, if given. `parts` are those
    of a time, `size` is a vector's, `buckets` and `max_tokens` are a text's. Tokens are made by
    the tokenizer in the folder `tokenizer`. A custom input is computed by `class_` from `sources`.
    """

    name: str
    kind: InputKind
    missing: str
    scale: str = "none"
    constant: float | str | None = None
    indicator: bool = False
    clip_low: float | None = None
    clip_high: float | None = None
    min_count: int = 1
    exact: bool = False
    parts: tuple[str, ...] = ()
    size: int = 0
    buckets: int | None = None
    max_tokens: int = 0
    weighting: str = "tfidf"
    class_: str = ""
    sources: tuple[PackedColumn, ...] = ()
    tokenizer: str = ""
    tokenizer_digest: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputColumn:
        """The column that `dataclasses.asdict` wrote."""
        parts = tuple(value.get("parts", ()))
        sources = tuple(PackedColumn(**source) for source in value.get("sources", ()))
        return cls(**(dict(value) | {"parts": parts, "sources": sources}))

    @property
    def packed(self) -> tuple[PackedColumn, ...]:
        """The source columns in the forms that they are packed to."""
        if self.kind == "custom":
            return self.sources
        if self.kind == "tokens":
            return (PackedColumn(self.name, f"{TOKENS}:{self.tokenizer_digest}", self.tokenizer),)
        return (PackedColumn(self.name, "exact" if self.exact else self.kind),)

    @property
    def width(self) -> int:
        """How many numbers a row of it is, a category counted as one."""
        widths = {"time": len(self.parts), "vector": self.size, "text": self.buckets or 0,
                  "tokens": self.max_tokens}  # fmt: skip
        return widths.get(self.kind, 1) + self.indicator


@dataclass(frozen=True, order=True)
class PackedColumn:
    """A source column in a prepared copy. `number` is float32, `exact` float64, `category`
    a dictionary code, `time` 64-bit microseconds, `vector` float32, `text` hashes of its words,
    tokens the ids that the tokenizer in the folder `tokenizer` gives.
    """

    name: str
    form: Form
    tokenizer: str = ""


AUTO: dict[str, NumberFeature | CategoryFeature | TimeFeature | VectorFeature] = {
    "number": NumberFeature(type="number"),
    "boolean": NumberFeature(type="number"),
    "category": CategoryFeature(type="category"),
    "time": TimeFeature(type="time"),
    "vector": VectorFeature(type="vector"),
}
FITTING: dict[str, tuple[str, ...]] = {
    "number": ("number", "boolean"),
    "category": ("category", "number", "boolean"),
    "time": ("time",),
    "vector": ("vector",),
    "text": ("category",),
    "tokens": ("category",),
}
DATE_PARTS = ("month", "day", "weekday", "elapsed")
TIME_PARTS = ("month", "day", "weekday", "hour", "elapsed")


def resolved_input(
    column: Column, feature: Any, job: Job, complain: Callable[[str, str, str], None]
) -> InputColumn:
    """`feature` of a column of a fitting type, with every `auto` decided by the job's model."""
    name = column.name
    if isinstance(feature, CategoryFeature):
        return _category(name, feature, complain)
    if isinstance(feature, TextFeature) and feature.tokenizer is not None:
        return _tokens(name, feature, job, complain)
    if isinstance(feature, TextFeature):
        return InputColumn(
            name, "text", "own", buckets=feature.buckets, max_tokens=feature.max_tokens,
            weighting=feature.weighting,
        )  # fmt: skip
    model = job.spec.model
    constant = None
    missing: Any = feature.missing
    if isinstance(missing, ConstantNumber):
        missing, constant = "constant", missing.constant
    if missing == "auto":
        missing = "keep" if model.keeps_missing else "mean"
    if missing == "keep" and not model.keeps_missing:
        complain(
            f"data.features.{name}",
            f"a model of kind `{model.kind}` cannot keep missing values",
            "write `missing: mean`, or another filling",
        )
    scale = feature.scale
    if scale == "auto":
        scale = "standard" if model.wants_scaling else "none"
    if isinstance(feature, TimeFeature):
        usual = DATE_PARTS if column.type.startswith("date") else TIME_PARTS
        return InputColumn(name, "time", missing, scale, parts=feature.parts or usual)
    if isinstance(feature, VectorFeature):
        return InputColumn(name, "vector", missing, scale, size=column.size)
    low, high = (feature.clip.low, feature.clip.high) if feature.clip else (None, None)
    return InputColumn(
        name, "number", missing, scale, constant, feature.indicator, low, high, exact=feature.exact
    )


RAW_FORMS: dict[str, Form] = {
    "number": "exact",
    "boolean": "exact",
    "category": "category",
    "time": "time",
    "vector": "vector",
}


def custom_input(
    name: str, feature: CustomFeature, columns: Mapping[str, Column], job: Job
) -> InputColumn:
    """A feature of the user's own, over columns of types that can be packed."""
    model = job.spec.model
    missing, scale = feature.missing, feature.scale
    sources = [PackedColumn(source, RAW_FORMS[columns[source].kind]) for source in feature.inputs]
    return InputColumn(
        name, "custom",
        ("keep" if model.keeps_missing else "mean") if missing == "auto" else missing,
        ("standard" if model.wants_scaling else "none") if scale == "auto" else scale,
        class_=feature.class_, sources=tuple(sources),
    )  # fmt: skip


def _tokens(
    name: str, feature: TextFeature, job: Job, complain: Callable[[str, str, str], None]
) -> InputColumn:
    key = f"data.features.{name}.tokenizer"
    if job.spec.model.family != "network":
        what = f"feeds networks, not a model of kind `{job.spec.model.kind}`"
        complain(key, what, "leave it out: words are then hashed and weighted")
    unused = {"buckets", "weighting"} & feature.model_fields_set
    if unused:
        complain(key, f"takes the place of `{'`, `'.join(sorted(unused))}`", "leave it out")
    folder = str(feature.tokenizer)
    file = as_path(folder) / TOKENIZER_FILE
    digest = ""
    if file.is_file():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST_LENGTH]
    else:
        remedy = "in Python: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it"
        complain(key, f"`{folder}` holds no {TOKENIZER_FILE}", remedy)
    return InputColumn(
        name, "tokens", "own", max_tokens=feature.max_tokens,
        tokenizer=folder, tokenizer_digest=digest,
    )  # fmt: skip


def _category(
    name: str, feature: CategoryFeature, complain: Callable[[str, str, str], None]
) -> InputColumn:
    missing: Any = feature.missing
    constant = None
    if isinstance(missing, ConstantCategory):
        missing, constant = "constant", missing.constant
    if feature.buckets is not None and (missing == "most_frequent" or feature.min_count > 1):
        complain(
            f"data.features.{name}",
            "`buckets` keeps no values, so that none is counted",
            "leave `min_count` and `missing: most_frequent` out",
        )
    return InputColumn(
        name, "category", "own" if missing == "auto" else missing, constant=constant,
        min_count=feature.min_count, buckets=feature.buckets,
    )  # fmt: skip
