"""Which columns take part, as what, and in which form they are packed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from heliostat.catalog.catalog import Catalog
from heliostat.catalog.columns import Column
from heliostat.catalog.types import type_name
from heliostat.catalog.vocabulary import read_vocabulary
from heliostat.errors import PlanError, Problem
from heliostat.plan.inputs import (
    AUTO,
    FITTING,
    RAW_FORMS,
    TOKENS,
    InputColumn,
    InputKind,
    PackedColumn,
    custom_input,
    resolved_input,
)
from heliostat.plan.stream import stream_identity
from heliostat.spec.data import AutoFeature, CustomFeature, DataSpec, IgnoreFeature, TextFeature
from heliostat.spec.identity import digest_of
from heliostat.spec.load import Job
from heliostat.spec.model import GptModel


@dataclass(frozen=True)
class Columns:
    """The job's columns, resolved against the source; `types` are those of the source, by name."""

    inputs: tuple[InputColumn, ...]
    target: PackedColumn
    split: PackedColumn | None
    weight: PackedColumn | None
    target_type: str
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def packed(self) -> tuple[PackedColumn, ...]:
        """Everything that preparation packs; no cleaning, split or model changes it."""
        inputs = {packed for column in self.inputs for packed in column.packed}
        extra = {column for column in (self.target, self.split, self.weight) if column}
        return tuple(sorted(inputs | extra))

    def of_kind(self, kind: InputKind) -> tuple[InputColumn, ...]:
        """The inputs of one kind, in order."""
        return tuple(column for column in self.inputs if column.kind == kind)


def prepared_digest(catalog: Catalog, columns: Columns, data: DataSpec, seed: int) -> str:
    """The identity of a prepared copy: the source, the rows and columns taken from it, and the
    columns' forms, only. A stream keeps few rows, and which is for its split to say.
    """
    packed = [[column.name, column.form] for column in columns.packed]
    drops = sorted(column.name for column in columns.inputs if column.missing == "drop")
    row_filter = [data.filter] if data.filter else []
    return digest_of([catalog.digest, packed, *row_filter, *stream_identity(data, seed, drops)])


def resolve_columns(job: Job, catalog: Catalog) -> Columns:
    """Match `data` against the source's columns.

    Raises:
        PlanError: with every column that is missing or of the wrong type.
    """
    resolver = _Resolver(job, catalog)
    target = resolver.target()
    split, weight = resolver.split(), resolver.weight()
    inputs = resolver.inputs()
    if not inputs and not resolver.problems and job.spec.data.task != "language":
        hint = "name the index exactly to make it an input" if catalog.index else ""
        resolver.complain("data.features", "leaves no column to learn from", hint)
    if resolver.problems or target is None:
        raise PlanError(resolver.problems)
    resolved = Columns(tuple(inputs), target, split, weight, catalog.columns[target.name].type)
    names = {column.name for column in resolved.packed}
    types = {name: type_name(catalog.schema.field(name).type) for name in sorted(names)}
    return replace(resolved, types=types)


class _Resolver:
    def __init__(self, job: Job, catalog: Catalog) -> None:
        self.job, self.catalog = job, catalog
        self.problems: list[Problem] = []

    def complain(self, key: str, message: str, hint: str = "") -> None:
        self.problems.append(self.job.problem(key, message, hint))

    def target(self) -> PackedColumn | None:
        data = self.job.spec.data
        column = self._column("data.target", data.target)
        if column is None:
            return None
        if data.task == "regression":
            if not column.is_number:
                self.complain(
                    "data.target",
                    f"column `{column.name}` is {column.type}; a regression needs numbers",
                    self._meant(column, "target")
                    or "write `task: binary` or `task: multiclass`, or name another target",
                )
                return None
            return PackedColumn(column.name, "exact")
        if isinstance(self.job.spec.model, GptModel):
            return self._tokens("data.target", column)
        if column.kind in ("nested", "time", "other"):
            self.complain("data.target", f"column `{column.name}` is {column.type}: no classes")
            return None
        return PackedColumn(column.name, "category")

    def _tokens(self, key: str, column: Column) -> PackedColumn | None:
        """A text as the tokens of the model's own tokenizer."""
        model = self.job.spec.model
        assert isinstance(model, GptModel)
        if column.kind not in FITTING["tokens"]:
            self.complain(key, f"column `{column.name}` is {column.type}, not a text")
            return None
        vocabulary = read_vocabulary(model.tokenizer, model.end_token)
        if model.vocab_size is not None and model.vocab_size < vocabulary.size:
            what = f"{model.vocab_size}: the tokenizer has {vocabulary.size} tokens"
            self.complain("model.vocab_size", what, "raise it, or leave it out")
        return PackedColumn(column.name, f"{TOKENS}:{vocabulary.digest}", model.tokenizer)

    def _prompt(self) -> list[InputColumn]:
        """The column that a language model is given before what it learns to write, if any."""
        features = self.job.spec.data.features or {}
        names = list(features)
        for name, feature in features.items():
            if not isinstance(feature, (TextFeature, AutoFeature)) or feature.model_fields_set - {
                "type"
            }:
                what = "a prompt is text, as tokens of `model.tokenizer`"
                self.complain(f"data.features.{name}", what, f"write `{name}: text`")
        found = [self._column(f"data.features.{name}", name) for name in names]
        for name in names[1:]:
            what = "a language model takes one text before what it learns to write"
            self.complain(f"data.features.{name}", what, "leave it out")
        inputs = []
        for column in found:
            packed = self._tokens(f"data.features.{column.name}", column) if column else None
            if packed is not None:
                digest = packed.form.partition(":")[2]
                inputs.append(
                    InputColumn(
                        packed.name,
                        "tokens",
                        "own",
                        max_tokens=0,
                        tokenizer=packed.tokenizer,
                        tokenizer_digest=digest,
                    )  # fmt: skip
                )
        return inputs

    def split(self) -> PackedColumn | None:
        name = getattr(self.job.spec.data.split, "column", None)
        if name is None:
            return None
        column = self._column("data.split.column", name)
        if column is None:
            return None
        if self.job.spec.data.split.method != "time":
            return PackedColumn(name, "category")
        if column.kind not in ("time", "number"):
            self.complain("data.split.column", f"column `{name}` is {column.type}: no time")
            return None
        return PackedColumn(name, "time" if column.kind == "time" else "exact")

    def weight(self) -> PackedColumn | None:
        name = self.job.spec.data.weight
        column = None if name is None else self._column("data.weight", name)
        if column is None:
            return None
        if column.kind != "boolean" and not column.is_number:
            self.complain("data.weight", f"column `{name}` is {column.type}, not a number")
            return None
        return PackedColumn(column.name, "exact")

    def inputs(self) -> list[InputColumn]:
        data = self.job.spec.data
        features = data.features
        if data.task == "language":
            return self._prompt()
        reserved = {data.target, data.weight, getattr(data.split, "column", None)}
        if features is not None:
            for key, feature in features.items():
                if isinstance(feature, CustomFeature):
                    continue
                self._check_key(key, isinstance(feature, IgnoreFeature))
        inputs = list(self._custom_inputs(features or {}))
        for column in self.catalog.columns.values():
            key, feature = self._rule(column.name)
            if isinstance(feature, CustomFeature):
                continue
            exact = key == f"data.features.{column.name}"
            if feature is None or isinstance(feature, IgnoreFeature):
                continue
            if column.name in reserved and not exact:
                continue
            if column.name == data.target:
                self.complain(key, "the target cannot be an input too", "leave it out")
                continue
            resolved = self._input(key, column, feature)
            if resolved is not None:
                inputs.append(resolved)
        return inputs

    def _check_key(self, key: str, ignored: bool) -> None:
        """Complain of a key of `features` that stands for no column."""
        columns, index = self.catalog.columns, self.catalog.index
        if key in columns or not _is_pattern(key):
            self._column(f"data.features.{key}", key, ignored)
            return
        found = [name for name in columns if fnmatchcase(name, key)]
        if not found:
            self.complain(f"data.features.{key}", f"`{key}` matches no column")
        elif index.issuperset(found):
            what = f"`{key}` matches only `{found[0]}`, the index of a table of pandas"
            self.complain(f"data.features.{key}", what, "name it exactly to make it an input")

    def _custom_inputs(self, features: Mapping[str, Any]) -> Iterator[InputColumn]:
        for name, feature in features.items():
            if not isinstance(feature, CustomFeature):
                continue
            key = f"data.features.{name}.inputs"
            found = [self._column(key, source) for source in feature.inputs]
            for column in found:
                if column is not None and column.kind not in RAW_FORMS:
                    self.complain(
                        key, f"column `{column.name}` is {column.type}, which is not read"
                    )
                elif column is not None and column.name == self.job.spec.data.target:
                    self.complain(key, "the target cannot be an input too", "leave it out")
            if all(column is not None and column.kind in RAW_FORMS for column in found):
                yield custom_input(name, feature, self.catalog.columns, self.job)

    def _rule(self, name: str) -> tuple[str, Any]:
        """The exact name first, then the first glob that matches; an index goes by its name only.
        A key that is a column's name is never a glob.
        """
        features = self.job.spec.data.features
        if features is not None and name in features:
            return f"data.features.{name}", features[name]
        if name in self.catalog.index:
            return "data.features", None
        if features is None:
            return "data.features", AutoFeature(type="auto")
        for key, feature in features.items():
            is_glob = _is_pattern(key) and key not in self.catalog.columns
            if is_glob and fnmatchcase(name, key):
                return f"data.features.{key}", feature
        return "data.features", None

    def _meant(self, column: Column, wanted: str) -> str:
        """Why a column of delimited text is not what it is wanted for, and what to do."""
        doubt = self.catalog.doubts.get(column.name)
        if doubt is None or wanted not in ("target", "number"):
            return ""
        return f"{doubt.what}: {doubt.remedy or f'write `{column.name}: category`'}"

    def _input(self, key: str, column: Column, feature: Any) -> InputColumn | None:
        if column.problem is not None:
            self._report(column, f"write `{column.name}: ignore`")
            return None
        doubt = self.catalog.doubts.get(column.name)
        if isinstance(feature, AutoFeature):
            if column.kind not in AUTO:
                nested = column.kind == "nested"
                what = "is nested" if nested else "has a type that no feature takes"
                flatten = "give its parts columns of their own, or " if nested else ""
                self.complain(
                    key,
                    f"column `{column.name}` ({column.type}) {what}",
                    f"{flatten}write `{column.name}: ignore`",
                )
                return None
            feature = AUTO[column.kind]
            if doubt is not None and doubt.is_number:
                remedy = f"{doubt.remedy}, or " if doubt.remedy else ""
                what = f"column `{column.name}` is read as text, but {doubt.what}"
                self.complain(key, what, f"{remedy}`{column.name}: category` to keep it text")
                return None
        digits = column.digits and feature.type == "number"
        days = column.type.startswith("date") and feature.type == "category"
        if column.kind not in FITTING[feature.type] and not (digits or days):
            what = f"column `{column.name}` is {column.type}, not a {feature.type}"
            self.complain(key, what, self._meant(column, feature.type))
            return None
        return resolved_input(column, feature, self.job, self.complain)

    def _column(self, key: str, name: str, ignored: bool = False) -> Column | None:
        """The column that a key names, unless nobody can use it."""
        column = self.catalog.columns.get(name)
        if column is None:
            close = difflib.get_close_matches(name, self.catalog.columns, n=1)
            some = ", ".join(list(self.catalog.columns)[:12])
            hint = f"did you mean `{close[0]}`?" if close else f"columns: {some}"
            self.complain(key, f"the source has no column `{name}`", hint)
        elif column.problem is not None and not ignored:
            self._report(column)
            return None
        return column

    def _report(self, column: Column, other_remedy: str = "") -> None:
        """Say what is wrong in the source; once, though several keys may name the column."""
        assert column.problem is not None
        if any(problem.message == column.problem.message for problem in self.problems):
            return
        hint = ", or ".join(filter(None, (column.problem.hint, other_remedy)))
        self.problems.append(replace(column.problem, hint=hint))


def _is_pattern(key: str) -> bool:
    return any(character in key for character in "*?[")
