"""`data`: the source, its columns, how it is cleaned and split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PositiveFloat, Tag, model_validator

from heliostat.spec.base import Spec, parse_duration_seconds
from heliostat.spec.read import ReadSpec
from heliostat.spec.short import short_for

Task = Literal["regression", "binary", "multiclass", "ranking", "language"]
NumberMissing = Literal["auto", "keep", "drop", "mean", "median", "most_frequent"]
CategoryMissing = Literal["auto", "own", "drop", "most_frequent"]
Scaling = Literal["auto", "standard", "min_max", "none"]


class ConstantNumber(Spec):
    """Fill missing numbers with a fixed value: `missing: {constant: 0}`."""

    constant: float


class ConstantCategory(Spec):
    """Fill missing categories with a fixed value: `missing: {constant: unknown}`."""

    constant: str


class AutoFeature(Spec):
    """Take the type from the column: numbers and booleans as number, strings as category,
    dates and times as time, lists of a fixed size as vector.
    """

    type: Literal["auto"]


class IgnoreFeature(Spec):
    """Leave the column out."""

    type: Literal["ignore"]


Quantile = Annotated[float, Field(ge=0, le=1)]


class ClipSpec(Spec):
    """Outliers are moved to these quantiles of the training rows."""

    low: Quantile = 0.0
    high: Quantile = 1.0

    @model_validator(mode="after")
    def _leave_something(self) -> ClipSpec:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class NumberFeature(Spec):
    """A number. `auto` missing: kept for trees, else the mean; `auto` scaling: standard
    for networks, linear models, kNN and SVM, none for trees. `indicator` adds a column that
    is 1 where the value is missing. `exact` keeps 64 bits until the value is scaled; models
    see 32.
    """

    type: Literal["number"]
    missing: NumberMissing | ConstantNumber = "auto"
    scale: Scaling = "auto"
    indicator: bool = False
    clip: ClipSpec | None = None
    exact: bool = False


TimePart = Literal["year", "month", "day", "weekday", "day_of_year", "hour", "minute", "elapsed"]


class TimeFeature(Spec):
    """A date or a time, as numbers: parts of the calendar (in UTC; Monday is weekday 0) and
    the days elapsed since 1970. Default: month, day, weekday, hour (not for dates), elapsed.
    """

    type: Literal["time"]
    parts: Annotated[tuple[TimePart, ...], Field(strict=False, min_length=1)] | None = None
    missing: Literal["auto", "keep", "drop", "mean", "median"] = "auto"
    scale: Scaling = "auto"


class VectorFeature(Spec):
    """A list of numbers of one fixed size, such as an embedding; each place is a number."""

    type: Literal["vector"]
    missing: Literal["auto", "keep", "drop", "mean"] = "auto"
    scale: Scaling = "auto"


class CategoryFeature(Spec):
    """One of many values. Missing values are a category of their own unless told otherwise;
    values not seen in training, or in fewer than `min_count` rows of it, share one unknown
    bucket. With `buckets`, values share that many codes by their hashes, for columns of
    millions of values.
    """

    type: Literal["category"]
    missing: CategoryMissing | ConstantCategory = "auto"
    min_count: int = Field(default=1, gt=0)
    buckets: int | None = Field(default=None, gt=0)


class TextFeature(Spec):
    """Free text: its first `max_tokens` words, lower case, hashed to `buckets` numbers; each
    counts how often its words occur, weighted by how rare they are in training (TF-IDF).

    With `tokenizer`, for networks: the ids of its first `max_tokens` tokens by a Hugging Face
    tokenizer, a directory that holds `tokenizer.json`.
    """

    type: Literal["text"]
    max_tokens: int = Field(default=128, gt=0)
    tokenizer: str | None = None
    buckets: int = Field(default=256, gt=0)
    weighting: Literal["tfidf", "count"] = "tfidf"


class ImageFeature(Spec):
    """An encoded image."""

    type: Literal["image"]
    size: int = Field(default=32, gt=0)


class AudioFeature(Spec):
    """An encoded sound."""

    type: Literal["audio"]
    sample_rate: int = Field(default=16000, gt=0)


class CustomFeature(Spec):
    """Numbers computed from columns by a class of `code:`, such as `clicks.features:Gap`. It has
    `fit(columns) -> state`, `merge(state, state) -> state` and `apply(columns, state) ->
    [rows] or [rows, width]`; a state is a JSON value, fitted on training rows only. Columns
    come as NumPy arrays: numbers float64, times datetime64, text as objects (missing: None).
    """

    type: Literal["custom"]
    class_: str = Field(alias="class", pattern=r"^[\w.]+:\w+$")
    inputs: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    missing: Literal["auto", "keep", "mean", "median"] = "auto"
    scale: Scaling = "auto"


Feature = Annotated[
    Annotated[AutoFeature, Tag("auto")]
    | Annotated[IgnoreFeature, Tag("ignore")]
    | Annotated[NumberFeature, Tag("number")]
    | Annotated[CategoryFeature, Tag("category")]
    | Annotated[TimeFeature, Tag("time")]
    | Annotated[VectorFeature, Tag("vector")]
    | Annotated[TextFeature, Tag("text")]
    | Annotated[ImageFeature, Tag("image")]
    | Annotated[AudioFeature, Tag("audio")]
    | Annotated[CustomFeature, Tag("custom")],
    Discriminator("type"),
]


class CleanSpec(Spec):
    """Which rows never take part, before splitting; and whether inputs that hold one value
    only in the training rows do.
    """

    duplicates: Literal["keep", "drop"] = "keep"
    missing_target: Literal["drop", "error"] = "drop"
    constant_columns: Literal["keep", "drop"] = "keep"


Fraction = Annotated[float, Field(ge=0, lt=1)]
ClassName = bool | int | str


class FractionSplit(Spec):
    """Shares of the rows kept aside for validation and test."""

    validation: Fraction = 0.15
    test: Fraction = 0.15
    folds: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _leave_something_to_train(self) -> FractionSplit:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leave no row to train on; "
                "their sum must be below 1"
            )
        return self


class RandomSplit(FractionSplit):
    """Rows at random, exact counts."""

    method: Literal["random"] = "random"


class StratifiedSplit(FractionSplit):
    """Rows at random, exact counts in every class of the target."""

    method: Literal["stratified"]


class GroupSplit(FractionSplit):
    """No group on two sides."""

    method: Literal["group"]
    column: str


class HashSplit(FractionSplit):
    """By a hash of a column's value: stable when rows are added."""

    method: Literal["hash"]
    column: str


def _check_share(value: Any) -> Any:
    if isinstance(value, str):
        if parse_duration_seconds(value) is None:
            raise ValueError(f"`{value}` is neither a fraction nor a duration like 7d or 12h")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError(f"`{value}` is neither a fraction in [0, 1) nor a duration like 7d or 12h")


Share = Annotated[float | str, BeforeValidator(_check_share)]


class TimeSplit(Spec):
    """The latest rows for test, those before them for validation. Equal times stay together."""

    method: Literal["time"]
    column: str
    validation: Share = 0.15
    test: Share = 0.15
    gap: Share = 0.0
    folds: int | None = Field(default=None, ge=2)


class ColumnSplit(Spec):
    """A column names the side: train, validation or test."""

    method: Literal["column"]
    column: str


class SourceSplit(Spec):
    """Validation and test come from sources of their own."""

    method: Literal["source"]
    validation: str
    test: str


Split = Annotated[
    Annotated[RandomSplit, Tag("random")]
    | Annotated[StratifiedSplit, Tag("stratified")]
    | Annotated[GroupSplit, Tag("group")]
    | Annotated[HashSplit, Tag("hash")]
    | Annotated[TimeSplit, Tag("time")]
    | Annotated[ColumnSplit, Tag("column")]
    | Annotated[SourceSplit, Tag("source")],
    Discriminator(
        lambda value: (
            value.get("method", "random")
            if isinstance(value, dict)
            else getattr(value, "method", None)
        )
    ),
]


class DeltaSource(Spec):
    """A Delta table at a version."""

    delta: str
    version: int | None = None


class IcebergSource(Spec):
    """An Iceberg table at a snapshot."""

    iceberg: str
    snapshot: int | None = None


def _source_tag(value: Any) -> str:
    if isinstance(value, str):
        return "path"
    if isinstance(value, (list, tuple)):
        return "paths"
    keys = value if isinstance(value, dict) else type(value).model_fields
    return "iceberg" if "iceberg" in keys else "delta"


Source = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[tuple[str, ...], Field(strict=False, min_length=1), Tag("paths")]
    | Annotated[DeltaSource, Tag("delta")]
    | Annotated[IcebergSource, Tag("iceberg")],
    Discriminator(_source_tag),
]


ClassWeights = Annotated[
    Annotated[Literal["balanced"], Tag("balanced")]
    | Annotated[dict[ClassName, PositiveFloat], Tag("named")],
    Discriminator(lambda value: "balanced" if isinstance(value, str) else "named"),
]


class DataSpec(Spec):
    """Where the rows come from, what is learned from which columns, and on which rows.

    A row counts as much as `weight` (a column) times the weight of its class: in the loss, in
    metrics and in XGBoost alike. `balanced` gives every class the same total in training.
    """

    source: Source
    read: ReadSpec | None = None
    filter: str | None = None
    target: str
    task: Task
    positive: bool | int | str | None = None
    weight: str | None = None
    class_weights: ClassWeights | None = None
    features: dict[str, Annotated[Feature, short_for("type", Feature)]] | None = None
    clean: CleanSpec = CleanSpec()
    split: Annotated[Split, short_for("method", Split)] = RandomSplit()
    ingest: Literal["prepared", "stream"] = "prepared"

    @property
    def num_folds(self) -> int | None:
        """In how many folds the split is validated; None: in none."""
        return getattr(self.split, "folds", None)
