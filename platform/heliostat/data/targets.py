"""What the targets of each side allow: whether a model can be learned from them, and which metrics
exist there. The same check for a plan, which packs a small source in memory, and for a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.fit import class_text, ordered_classes
from heliostat.data.prepared import Prepared
from heliostat.data.split import SplitRows
from heliostat.data.times import TRAIN, VALIDATION
from heliostat.data.together import split_notes
from heliostat.errors import DataError, Problem, UserError
from heliostat.plan.columns import Columns
from heliostat.spec.data import FractionSplit, TimeSplit
from heliostat.spec.job import JobSpec
from heliostat.spec.metrics import METRICS, metrics_of

Rows = npt.NDArray[np.int64]
SHOWN_CLASSES = 5
COUNTS = ("poisson",)  # losses of numbers from 0 up


@dataclass(frozen=True)
class Targets:
    """The targets of some rows: how many rows each class has and which classes weigh something, or
    the least and the largest number of the rows that do.
    """

    num_rows: int
    weight: float
    classes: Mapping[str, int]
    weighty: frozenset[str] = frozenset()
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class _Part:
    """A training and its validation: of the whole job, or of a fold, which `where` names."""

    where: str
    train: Targets
    validation: Targets


def check_split(
    spec: JobSpec, columns: Columns, prepared: Prepared, split: SplitRows
) -> tuple[str, ...]:
    """Sentences on metrics that do not exist on a side, and on sides far from their shares.

    Raises:
        DataError: nothing can be learned from the training rows, a class of another side is not
            among them, a target is none for the loss, or the objective does not exist where early
            stopping, a schedule or a search goes by it.
    """
    shares = split_notes(prepared, columns, spec.data, split.sides)
    if spec.data.task == "language":
        return shares
    sides = {
        side: targets_of(prepared, columns, np.asarray(rows)) for side, rows in split.sides.items()
    }
    parts = list(_parts(columns, prepared, split, sides))
    problems = [
        problem for part in parts for problem in _learnable(spec, columns, part.train, part)
    ]
    if not problems:
        problems = [
            problem
            for part in parts
            for problem in (
                *_held_out(spec, part.train, part.validation, f"the validation rows{part.where}"),
                *_objective(spec, columns, part),
            )
        ]
        problems += _held_out(spec, parts[0].train, sides["test"], "the test rows")
    if problems:
        raise DataError(list(dict.fromkeys(problems)))
    first = parts[0].train
    notes = [
        note
        for part in parts
        for note in _notes(spec, first, part.validation, f"validation{part.where}")
    ]
    return (*notes, *_notes(spec, first, sides["test"], "test"), *shares)


def targets_of(prepared: Prepared, columns: Columns, rows: Rows) -> Targets:
    """The targets of `rows`, ascending."""
    name, weighted = columns.target.name, columns.weight
    classes: dict[str, int] = {}
    weighty: set[str] = set()
    lows, highs, total = [math.inf], [-math.inf], 0.0
    for shard, start, end in prepared.spans():
        own = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
        weights = np.ones(len(own)) if weighted is None else shard.exact[weighted.name][own]
        total += float(weights.sum())
        if columns.target.form == "category":
            category = shard.categories[name]
            counts = np.bincount(category.codes[own], minlength=len(category.values)).tolist()
            for value, count in zip(category.values, counts, strict=True):
                if value is not None and count:
                    classes[value] = classes.get(value, 0) + count
            heavy = np.bincount(category.codes[own], weights, minlength=len(category.values)) > 0
            weighty |= {
                v for v, h in zip(category.values, heavy, strict=True) if h and v is not None
            }
        elif (weights > 0).any():
            numbers = shard.exact[name][own[weights > 0]]
            lows.append(float(numbers.min()))
            highs.append(float(numbers.max()))
    counts_by_class = dict(sorted(classes.items()))
    return Targets(len(rows), total, counts_by_class, frozenset(weighty), min(lows), max(highs))


def undefined(spec: JobSpec, trained: Targets, side: Targets) -> Iterator[tuple[str, list[str]]]:
    """Why metrics do not exist on a side, and which: (reason, names)."""
    names = metrics_of(spec.data.task)
    if side.num_rows == 0:
        return
    if side.weight <= 0:
        yield "its rows weigh nothing", list(names)
        return
    if spec.data.task == "regression":
        if side.low == side.high:
            yield f"its target is {side.low:g} in every row", _needing(names, "spread")
        return
    absent = [name for name in trained.classes if name not in side.weighty]
    if absent:
        no_positive = spec.data.task == "binary" and _positive(spec, trained) in absent
        needs = ("classes", "positives") if no_positive else ("classes",)
        yield f"it has no row of {_listed(absent)}", _needing(names, *needs)


def _needing(names: Sequence[str], *needs: str) -> list[str]:
    return [name for name in names if METRICS[name].needs in needs]


def _parts(
    columns: Columns, prepared: Prepared, split: SplitRows, sides: Mapping[str, Targets]
) -> Iterator[_Part]:
    if split.roles is None:
        yield _Part("", sides["train"], sides["validation"])
        return
    rows = np.asarray(split.sides["train"])
    for fold, roles in enumerate(split.roles):
        role = np.asarray(roles)
        yield _Part(
            f" of fold {fold + 1}",
            targets_of(prepared, columns, rows[role == TRAIN]),
            targets_of(prepared, columns, rows[role == VALIDATION]),
        )


def _learnable(spec: JobSpec, columns: Columns, train: Targets, part: _Part) -> Iterator[Problem]:
    """What is wrong with the training rows themselves."""
    name = columns.target.name
    if train.weight <= 0:
        what = f"`{spec.data.weight}` is 0 in all {train.num_rows:,} training rows{part.where}"
        yield Problem("data.weight", what, "weigh what is to be learned above 0")
    elif spec.data.task == "regression":
        if train.low == train.high:
            what = f"`{name}` is {train.low:g} in all {train.num_rows:,} training rows{part.where}"
            yield Problem(
                "data.target", f"{what}: there is nothing to learn", "name another target"
            )
        yield from _domain(spec, train, f"the training rows{part.where}")
    else:
        yield from _classes(spec, columns, train)


def _classes(spec: JobSpec, columns: Columns, train: Targets) -> Iterator[Problem]:
    if any(word in columns.target_type for word in ("float", "double", "decimal")):
        broken = next((text for text in train.classes if not _is_whole(text)), None)
        if broken is not None:
            what = (
                f"`{columns.target.name}` holds {broken}, and a class is a whole number or a word"
            )
            yield Problem("data.target", what, "write `task: regression`, or name another target")
            return
    try:
        ordered_classes(tuple(train.classes), spec)
    except UserError as error:
        yield from error.problems


def _is_whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except ValueError:
        return False


def _domain(spec: JobSpec, side: Targets, where: str) -> Iterator[Problem]:
    loss = spec.train.loss.name
    if loss in COUNTS and side.low < 0:
        what = f"`{spec.data.target}` is {side.low:g} in {where}; loss `{loss}` is for counts"
        yield Problem(
            "train.loss", what, "take another loss, or leave such rows out by `data.filter`"
        )


def _held_out(spec: JobSpec, train: Targets, side: Targets, where: str) -> Iterator[Problem]:
    """What the model could not be judged by."""
    if spec.data.task == "regression":
        yield from _domain(spec, side, where)
        return
    unseen = {name: count for name, count in side.classes.items() if name not in train.classes}
    if unseen:
        rows = ", ".join(
            f"`{name}` ({count:,})" for name, count in list(unseen.items())[:SHOWN_CLASSES]
        )
        more = f" and {len(unseen) - SHOWN_CLASSES:,} more" if len(unseen) > SHOWN_CLASSES else ""
        yield Problem(
            "data.target",
            f"{where} hold classes of `{spec.data.target}` that no training row has, with so many "
            f"rows: {rows}{more}",
            "split with `method: stratified`, or leave rare classes out by `data.filter`",
        )


def _objective(spec: JobSpec, columns: Columns, part: _Part) -> Iterator[Problem]:
    """The objective must exist where something is decided by it."""
    decider, side = _decider(spec), part.validation
    if decider is None:
        return
    metric = spec.objective_metric
    if side.num_rows == 0:
        what = f"{decider} goes by `{metric}` on validation rows, and there are none{part.where}"
        yield Problem("data.split", what, "keep some for validation")
        return
    for reason, names in undefined(spec, part.train, side):
        if metric in names:
            what = (
                f"`{metric}` does not exist on the {side.num_rows:,} validation rows{part.where}, "
                f"and {decider} goes by it: {reason}{_counted(side)}"
            )
            yield Problem("objective", what, _remedy(spec, part.train))


def _decider(spec: JobSpec) -> str | None:
    """What goes by the objective while training or searching; None: nothing does."""
    if spec.tune is not None:
        return "`tune`"
    if spec.train.early_stopping is not None:
        return "`train.early_stopping`"
    return "`train.schedule: plateau`" if spec.train.schedule.name == "plateau" else None


def _remedy(spec: JobSpec, train: Targets) -> str:
    if spec.data.task == "regression":
        return "write `objective: rmse`, or keep more rows for validation"
    rare = min(train.classes.values())
    split = spec.data.split
    by_rows = isinstance(split, (FractionSplit, TimeSplit)) and split.method != "stratified"
    others = "`split: {method: stratified}`, more validation rows, " if by_rows and rare > 1 else ""
    return f"write {others or 'more validation rows '}or `objective: log_loss`"


def _counted(side: Targets) -> str:
    shown = ", ".join(
        f"{count:,} of `{name}`" for name, count in list(side.classes.items())[:SHOWN_CLASSES]
    )
    return f" ({shown})" if shown else ""


def _notes(spec: JobSpec, trained: Targets, side: Targets, where: str) -> Iterator[str]:
    for reason, names in undefined(spec, trained, side):
        if names:
            verb = "does not exist" if len(names) == 1 else "do not exist"
            told = ", ".join(names)
            yield f"{told} {verb} on {where}: {reason}; no value is reported or compared"


def _positive(spec: JobSpec, trained: Targets) -> str:
    if spec.data.positive is not None:
        return class_text(spec.data.positive)
    return ordered_classes(tuple(trained.classes), spec)[-1]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN_CLASSES])
    more = f" and {len(names) - SHOWN_CLASSES:,} more" if len(names) > SHOWN_CLASSES else ""
    return f"class {shown}{more}" if len(names) == 1 else f"classes {shown}{more}"
