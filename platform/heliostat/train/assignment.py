"""What a worker is told: one resolved job, where its data lies, where its results go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.catalog.vocabulary import read_vocabulary
from heliostat.data.encode import Encoder, TargetTransform
from heliostat.data.fit import fit_encoder
from heliostat.data.inherit import inherited
from heliostat.data.prepared import Prepared
from heliostat.data.reader import RowReader, check_classes
from heliostat.data.sequences import SequenceReader
from heliostat.data.shares import Share, training_shares
from heliostat.data.split import SplitRows, split_rows
from heliostat.data.statistics import Statistics, Wanted, gather_statistics
from heliostat.errors import DataError, Problem
from heliostat.models.predictor import Shape
from heliostat.plan.columns import Columns
from heliostat.spec.identity import digest_of
from heliostat.spec.job import JobSpec
from heliostat.spec.model import GptModel
from heliostat.storage.cache import local_copy
from heliostat.storage.objects import as_path


@dataclass(frozen=True)
class RunPlace:
    """Where a run's checkpoints go, and the lease that admits this attempt. Each new best is one
    of them, or (`keeps_best` false, of a trial) stays with the process until one is due.
    """

    checkpoints: str
    lease: str
    token: int
    keeps_best: bool = True


@dataclass(frozen=True)
class Assignment:
    """A training to be done. Without a `place` nothing outlives the process; `final` asks for
    metrics on every side, else only validation is scored; `model_folder` is where the finished
    model is published, if it is kept. Of a job with folds, `fold` is the one to validate on, and
    `refit` takes the rows of all; with neither, it is the whole cross-validation. Training pauses,
    with a checkpoint, at the first validation not before `until`, in the model's own unit. One that
    `is_alone` has its GPU to itself, whatever share it asked for.
    """

    job: Mapping[str, Any]
    columns: Columns
    prepared: str
    data_digest: str
    code: str | None
    code_digest: str
    model_folder: str | None
    place: RunPlace | None = None
    final: bool = True
    fold: int | None = None
    refit: bool = False
    until: int | None = None
    is_alone: bool = False

    @cached_property
    def spec(self) -> JobSpec:
        """The job."""
        return JobSpec.model_validate(self.job)

    @cached_property
    def code_folder(self) -> Path | None:
        """The user's own code, on this machine."""
        return local_copy(as_path(self.code)) if self.code else None

    @property
    def digests(self) -> dict[str, str]:
        """What a checkpoint must agree with to be resumed from."""
        return {"data": self.data_digest, "code": self.code_digest}


@dataclass(frozen=True)
class OpenData:
    """The assignment's data, mapped and fitted; `touched` counts what fitting changes, by what
    it does; `shares` says how many values of each input are missing in training. Texts are learned
    in `sequences`, of each side. `derived` is what a family has made of
    it and may use again: the next trial of the same data and process finds it there.
    """

    prepared: Prepared
    split: SplitRows
    encoder: Encoder
    reader: RowReader
    shape: Shape
    touched: Mapping[str, int]
    shares: Mapping[str, Share] = field(default_factory=dict)
    sequences: Mapping[str, SequenceReader] = field(default_factory=dict)
    derived: dict[object, Any] = field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """What an epoch goes through: the training rows, or the sequences packed from them."""
        texts = self.sequences.get("train")
        return self.counts["train"] if texts is None else texts.num_sequences

    @property
    def counts(self) -> dict[str, int]:
        """Rows a side; of a stream, those of training are not all here."""
        counts, facts = self.split.counts, self.prepared.stream
        return counts if facts is None else counts | {"train": int(facts.train_rows.sum())}

    def rows(self, side: str) -> npt.NDArray[np.int64]:
        """The rows of a side, ascending."""
        return self.split.sides[side]


def open_data(assignment: Assignment) -> OpenData:
    """Map the prepared copy, find the split, fit the transforms: each once a process.

    Raises:
        DataError: a side is empty, or classes do not fit the task.
    """
    spec = assignment.spec
    key = digest_of(
        [
            assignment.prepared,
            spec.data.model_dump(mode="json", by_alias=True, exclude={"source"}),
            spec.model.kind,
            getattr(spec.model, "init_from", None),
            _packing(spec),
            spec.train.loss.name,  # how the target is scaled goes by it
            spec.seed,
            assignment.fold,
            assignment.code_digest,  # inputs may be computed by it
        ]
    )
    return _opened(key, _Unhashed(assignment))


@lru_cache(maxsize=2)
def _statistics(key: str, carrier: _Unhashed) -> Callable[[int | None], Statistics]:
    """The statistics of the training rows of any fold (None: of all), from one pass."""
    prepared, split, wanted = carrier.value
    labels, trains = split.parts(prepared.num_rows)
    parts = gather_statistics(prepared, labels, trains.shape[1], wanted)

    def of_fold(fold: int | None) -> Statistics:
        return parts.of([True] * trains.shape[1] if fold is None else trains[fold].tolist())

    return of_fold


def _packing(spec: JobSpec) -> Mapping[str, Any]:
    """How a language model packs texts."""
    if not isinstance(spec.model, GptModel):
        return {}
    return spec.model.model_dump(include={"tokenizer", "end_token", "vocab_size", "max_tokens"})


class _Unhashed:
    """Carries a value through a cache that must not look at it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=2)
def _opened(key: str, carrier: _Unhashed) -> OpenData:
    assignment: Assignment = carrier.value
    spec = assignment.spec
    prepared = Prepared.open(as_path(assignment.prepared))
    split = split_rows(prepared, assignment.columns, spec.data, spec.seed)
    if isinstance(spec.model, GptModel):
        return _texts(assignment, spec.model, prepared, split)
    code = str(assignment.code_folder or "")
    wanted = Wanted.by(assignment.columns, code)
    pass_key = digest_of([str(split.folder), repr(wanted), assignment.code_digest])
    known = _statistics(pass_key, _Unhashed((prepared, split, wanted)))(assignment.fold)
    if assignment.fold is not None:
        split = split.fold(assignment.fold)
    train = split.sides["train"]
    encoder, touched = fit_encoder(prepared, assignment.columns, spec, train, known, code)
    types = assignment.columns.types
    encoder = inherited(encoder, getattr(spec.model, "init_from", None), types)
    reader = RowReader(prepared, encoder)
    for side in ("validation", "test"):
        check_classes(reader, split.sides[side], side)
    num_classes = len(encoder.target.classes)
    multiclass = spec.data.task == "multiclass"
    shape = Shape(
        encoder.num_numbers,
        encoder.cardinalities,
        num_classes if multiclass else 1,
        spec.data.task,
        encoder.token_shapes,
        "log" if spec.train.loss.name == "poisson" else "identity",
    )
    shares = training_shares(known, encoder, prepared.shards[0].number_names)
    return OpenData(prepared, split, encoder, reader, shape, touched, shares)


def _texts(
    assignment: Assignment, model: GptModel, prepared: Prepared, split: SplitRows
) -> OpenData:
    """The data of a language model: nothing is fitted, documents are packed into sequences."""
    target, prompts = assignment.columns.target, assignment.columns.inputs
    vocabulary = read_vocabulary(target.tokenizer, model.end_token)
    sequences = {
        side: SequenceReader(
            prepared, np.asarray(rows), target.name, prompts[0].name if prompts else None,
            vocabulary.end, model.max_tokens,
        )
        for side, rows in split.sides.items()
    }  # fmt: skip
    if sequences["train"].num_documents == 0:
        raise DataError(Problem("data.target", f"`{target.name}` holds no text in training"))
    num_read = sum(split.counts.values())
    empty = num_read - sum(reader.num_documents for reader in sequences.values())
    encoder = Encoder((), (), TargetTransform(target.name, (), 0.0, 1.0, "string"))
    shape = Shape(
        0, (), model.vocab_size or vocabulary.size, assignment.spec.data.task, end=vocabulary.end
    )
    touched = {f"{target.name}: documents without a token": empty} if empty else {}
    reader = RowReader(prepared, encoder)
    return OpenData(prepared, split, encoder, reader, shape, touched, {}, sequences)
