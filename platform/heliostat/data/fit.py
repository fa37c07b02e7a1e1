"""Fit transforms on the training rows, and on no others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from heliostat.data.blocks import parts_of
from heliostat.data.custom import CustomTransform
from heliostat.data.encode import (
    FIRST_VALUE,
    MISSING,
    CategoryTransform,
    Encoder,
    NumberTransform,
    TargetTransform,
    TextTransform,
    TokenTransform,
    bucket_codes,
)
from heliostat.data.moments import Moments
from heliostat.data.prepared import Prepared
from heliostat.data.statistics import PLAIN, Statistics, Wanted, gather_statistics
from heliostat.data.text import load_tokenizer
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns
from heliostat.plan.inputs import InputColumn
from heliostat.spec.job import JobSpec

MAX_CATEGORIES = 1_000_000
MOST_CLASSES = 20  # with more numbers than that, a target is seldom one of classes
ROWS_AT_ONCE = 1 << 20
Rows = npt.NDArray[np.int64]


def fit_encoder(
    prepared: Prepared,
    columns: Columns,
    spec: JobSpec,
    train: Rows,
    known: Statistics | None = None,
    code: str = "",
) -> tuple[Encoder, dict[str, int]]:
    """The encoder of a job, fitted on the rows `train`; and in how many of them it changes what,
    in words. `known` are the statistics of those rows, if known already; the user's own classes
    lie in the folder `code`.

    Raises:
        DataError: a column holds no value in training, or classes do not fit the task.
        UserError: a class of the user's own fails.
    """
    if known is None:
        labels = _mask(prepared.num_rows, train).astype(np.int16) - np.int16(1)
        known = gather_statistics(prepared, labels, 1, Wanted.by(columns, code)).of([True])
    customs = tuple(
        CustomTransform.unfitted(c, code).fitted(known.states[c.name], prepared.shards[0])
        for c in columns.of_kind("custom")
    )
    numbers = _fit_numbers(prepared, columns, customs, train, known)
    categories = [_fit_category(known, column) for column in columns.of_kind("category")]
    texts = tuple(_fit_text(known, column) for column in columns.of_kind("text"))
    used = [
        fitted
        for fitted in (*numbers, *categories)
        if not fitted.constant or spec.data.clean.constant_columns == "keep"
    ]
    touched = {note: count for fitted in used for note, count in fitted.touched.items() if count}
    left_out = len(numbers) + len(categories) - len(used)
    if left_out:
        touched["columns with one value in the training rows: left out"] = left_out
    tokens = tuple(_fit_tokens(column) for column in columns.of_kind("tokens"))
    if not used and not texts and not tokens:
        raise DataError(
            Problem("data.clean.constant_columns", "no input has two values in the training rows")
        )
    transforms = [fitted.transform for fitted in used]
    encoder = Encoder(
        tuple(t for t in transforms if isinstance(t, NumberTransform)),
        tuple(t for t in transforms if isinstance(t, CategoryTransform)),
        _fit_target(known, columns, spec),
        texts,
        customs,
        tokens,
    )
    return encoder, touched


@dataclass(frozen=True)
class _Fitted:
    """A transform, whether its column is constant in training, and what it changes there."""

    transform: NumberTransform | CategoryTransform
    constant: bool
    touched: dict[str, int]


def _fit_numbers(
    prepared: Prepared,
    columns: Columns,
    customs: tuple[CustomTransform, ...],
    train: Rows,
    known: Statistics,
) -> list[_Fitted]:
    """All that becomes a number; one gather takes the plain ones, which stand together."""
    numbers = [
        _fit_number(prepared, column, part, known)
        for column in columns.inputs
        if column.kind in ("number", "time", "vector")
        for part in parts_of(column)
    ]
    for custom, column in zip(customs, columns.of_kind("custom"), strict=True):
        values = _custom_values(prepared, custom, train)
        numbers += [
            _fit_number(prepared, column, f"custom:{i}", known, values[:, i])
            for i in range(custom.width)
        ]
    return sorted(numbers, key=lambda fitted: _part(fitted) != "")


def _fit_tokens(column: InputColumn) -> TokenTransform:
    """Nothing of it is learned from rows: code 0 is no token, the others its tokenizer's."""
    size = load_tokenizer(column.tokenizer).get_vocab_size(with_added_tokens=True)
    return TokenTransform(column.name, column.max_tokens, size + 1)


def _custom_values(
    prepared: Prepared, custom: CustomTransform, train: Rows
) -> npt.NDArray[np.float64]:
    parts = []
    for shard, start, end in prepared.spans():
        rows = train[np.searchsorted(train, start) : np.searchsorted(train, end)] - start
        parts.append(custom.values(shard, rows))
    return np.concatenate(parts)


def _part(fitted: _Fitted) -> str:
    return fitted.transform.part if isinstance(fitted.transform, NumberTransform) else ""


def _fit_number(
    prepared: Prepared,
    column: InputColumn,
    part: str,
    known: Statistics,
    given: npt.NDArray[np.float64] | None = None,
) -> _Fitted:
    """`given` are all values of a part that the column's own class computes."""
    touched = {}
    low = high = None
    values = known.sample.get((column.name, part)) if given is None else given
    present = None if values is None else values[~np.isnan(values)]
    moments, place = _moments_of(prepared, column, part, known, given)
    below, above = column.clip_low, column.clip_high
    if below is not None and above is not None and present is not None and len(present):
        low, high = map(float, np.quantile(present, [below, above]))
        clipped = np.clip(present, *np.array([low, high], present.dtype))
        what = f"{column.name}: outliers clipped to {low:g} .. {high:g} in training"
        touched[what] = round((clipped != present).sum() * moments.count[place] / len(present))
        moments, place = _counted_as(moments.count[[place]], Moments.of(clipped[:, None])), 0
        present = clipped
    count = int(moments.count[place])
    if count == 0:
        raise DataError(
            Problem(
                f"data.features.{column.name}",
                "holds no value in the training rows",
                f"write `{column.name}: ignore`",
            )
        )
    mean, deviation = float(moments.mean[place]), float(moments.deviation[place])
    least, most = float(moments.low[place]), float(moments.high[place])
    fill = _fill_value(column, present, mean)
    if fill is not None and column.missing != "drop":
        note = f"{column.name}: missing values filled with {fill:g} in training"
        touched[note] = known.num_rows - count
    offset, divisor = 0.0, 1.0
    if column.scale == "standard":
        offset, divisor = mean, deviation
    elif column.scale == "min_max":
        offset, divisor = least, most - least
    transform = NumberTransform(
        # A constant column becomes zero, not NaN.
        column.name, fill, offset, divisor or 1.0, low, high, column.indicator, part
    )  # fmt: skip
    constant = least == most and (fill == least or count == known.num_rows)
    return _Fitted(transform, constant and not column.indicator, touched)


def _moments_of(
    prepared: Prepared,
    column: InputColumn,
    part: str,
    known: Statistics,
    given: npt.NDArray[np.float64] | None,
) -> tuple[Moments, int]:
    """The moments among which the part's are, and at which place."""
    if given is not None:
        return Moments.of(given[:, None]), 0
    if part:
        return known.moments[column.name], parts_of(column).index(part)
    return known.moments[PLAIN], prepared.shards[0].number_names.index(column.name)


def _counted_as(count: npt.NDArray[np.float64], sampled: Moments) -> Moments:
    """The moments of a sample as those of `count` values."""
    return replace(sampled, count=count, squares=sampled.squares * count / sampled.count)


def _fill_value(
    column: InputColumn, present: npt.NDArray[np.floating] | None, mean: float
) -> float | None:
    if column.missing == "keep":
        return None
    if column.missing == "constant":
        assert isinstance(column.constant, (int, float))
        return float(column.constant)
    if present is not None and column.missing == "median":
        return float(np.median(present))
    if present is not None and column.missing == "most_frequent":
        candidates, counts = np.unique(present, return_counts=True)
        return float(candidates[np.argmax(counts)])
    return mean  # also what `drop` leaves to `predict`


def _mask(num_rows: int, rows: Rows) -> npt.NDArray[np.bool_]:
    mask = np.zeros(num_rows, bool)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        mask[rows[start : start + ROWS_AT_ONCE]] = True
    return mask


def _fit_category(known: Statistics, column: InputColumn) -> _Fitted:
    if column.buckets is not None:
        code = MISSING
        if column.missing == "constant":
            code = int(bucket_codes([str(column.constant)], column.buckets)[0])
        return _Fitted(CategoryTransform(column.name, (), code, column.buckets), False, {})
    sizes = known.values[column.name]
    if len(sizes) > MAX_CATEGORIES:
        raise DataError(
            Problem(
                f"data.features.{column.name}",
                f"has {len(sizes):,} different values; a category holds up to {MAX_CATEGORIES:,}",
                f"write `{column.name}: {{type: category, buckets: 1048576}}`, or ignore",
            )
        )
    missing = known.num_rows - sum(sizes.values())
    counts = {value: n for value, n in sizes.items() if n >= column.min_count}
    rare = sum(n for n in sizes.values() if n < column.min_count)
    touched = {
        f"{column.name}: values in fewer than {column.min_count} rows taken as unknown": rare
    }
    filling = _filling(column, counts)
    vocabulary = tuple(sorted(counts.keys() | ({filling} if filling is not None else set())))
    code = MISSING
    if filling is not None:
        code = vocabulary.index(filling) + FIRST_VALUE
        touched[f"{column.name}: missing values filled with `{filling}` in training"] = missing
    num_kinds = len(counts) + (rare > 0) + (missing > 0 and filling not in counts)
    return _Fitted(CategoryTransform(column.name, vocabulary, code), num_kinds < 2, touched)


def _filling(column: InputColumn, counts: dict[str, int]) -> str | None:
    """The value that stands for a missing one; None: it stays a category of its own."""
    if column.missing == "constant":
        return str(column.constant)
    if column.missing == "most_frequent" and counts:
        return max(counts, key=lambda value: counts[value])
    return None


def _fit_text(known: Statistics, column: InputColumn) -> TextTransform:
    """Each bucket's weight: ln((1 + n) / (1 + rows with it)) + 1, as in scikit-learn."""
    assert column.buckets is not None
    weights = (1.0,) * column.buckets
    if column.weighting != "count":
        present = known.buckets[column.name]
        weights = tuple((np.log((1 + known.num_rows) / (1 + present)) + 1).tolist())
    return TextTransform(column.name, column.max_tokens, weights)


def _fit_target(known: Statistics, columns: Columns, spec: JobSpec) -> TargetTransform:
    name = columns.target.name
    if spec.data.task == "regression":
        moments = known.moments[name]
        is_count = spec.train.loss.name == "poisson"
        if is_count and moments.low[0] < 0:
            message = f"`{name}` is negative in training: loss `poisson` is for counts"
            raise DataError(Problem("train.loss", message, "take another loss"))
        if spec.model.family != "network" or is_count:
            return TargetTransform(name, (), 0.0, 1.0, columns.target_type, (), spec.data.weight)
        offset, scale = float(moments.mean[0]), float(moments.deviation[0]) or 1.0
        return TargetTransform(name, (), offset, scale, columns.target_type, (), spec.data.weight)
    counts = known.values[name]
    classes = ordered_classes(tuple(counts), spec)
    weights = _class_weights(spec, {name: counts[name] for name in classes})
    return TargetTransform(name, classes, 0.0, 1.0, columns.target_type, weights, spec.data.weight)


def _class_weights(spec: JobSpec, counts: dict[str, int]) -> tuple[float, ...]:
    """The weight of each class; balanced: rows / (classes x rows of the class)."""
    wanted = spec.data.class_weights
    if wanted is None:
        return ()
    if wanted == "balanced":
        total = sum(counts.values())
        return tuple(total / (len(counts) * count) for count in counts.values())
    named = {class_text(name): weight for name, weight in wanted.items()}
    if unknown := sorted(named.keys() - counts.keys()):
        raise DataError(_unknown_class(spec, "data.class_weights", unknown[0], tuple(counts)))
    return tuple(named.get(name, 1.0) for name in counts)


def ordered_classes(classes: tuple[str, ...], spec: JobSpec) -> tuple[str, ...]:
    """The classes in the order of their codes; of two, the positive one last.

    Raises:
        DataError: they do not fit the task.
    """
    if spec.data.task == "multiclass":
        if len(classes) < 2:
            raise DataError(_class_problem(spec, classes, "at least two classes"))
        return tuple(sorted(classes, key=_natural))
    if len(classes) != 2:
        raise DataError(_class_problem(spec, classes, "two classes"))
    ordered = tuple(sorted(classes, key=_natural))
    if spec.data.positive is None:
        return ordered
    text = class_text(spec.data.positive)
    if text not in classes:
        raise DataError(_unknown_class(spec, "data.positive", text, ordered))
    return (next(c for c in ordered if c != text), text)


def class_text(name: bool | int | str) -> str:
    """A class as its packed values name it."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def _unknown_class(spec: JobSpec, key: str, text: str, classes: tuple[str, ...]) -> Problem:
    return Problem(
        key, f"`{text}` is no class of `{spec.data.target}`", f"one of: {', '.join(classes)}"
    )


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers by value, before words."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _class_problem(spec: JobSpec, classes: tuple[str, ...], needed: str) -> Problem:
    shown, word = ", ".join(classes[:8]), "class" if len(classes) == 1 else "classes"
    return Problem(
        "data.target",
        f"`{spec.data.target}` has {len(classes)} {word} in the training rows ({shown}); "
        f"task `{spec.data.task}` needs {needed}",
        _other_task(classes),
    )


def _other_task(classes: tuple[str, ...]) -> str:
    if len(classes) < 2:
        return "there is nothing to learn; name another target, or take more rows"
    are_numbers = len(classes) > MOST_CLASSES and all(_natural(text)[0] == 0 for text in classes)
    return f"write `task: {'regression' if are_numbers else 'multiclass'}`, or name another target"
