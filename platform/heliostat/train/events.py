"""What training tells the outside, in the order it happens. Plain values, safe to send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Resumed:
    """Training goes on from a checkpoint. `history` is the whole metric log up to there: what
    a killed driver failed to write is in it, and what came after the checkpoint is not.
    """

    step: int
    skipped: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Fold:
    """Which training of a cross-validation: fold 0 to `num_folds` - 1, then the final one;
    `num_at_once` of them train side by side.
    """

    index: int
    num_folds: int
    num_at_once: int = 1

    def __str__(self) -> str:
        return "all folds" if self._is_final else f"fold {self.index + 1}/{self.num_folds}"

    def progress(self, done: float) -> float:
        """How much of the whole is done, 0 to 1, when so much of this one is: others beside it are
        taken to be as far.
        """
        if self._is_final:
            return (self.num_folds + done) / (self.num_folds + 1)
        before = self.index - self.index % self.num_at_once
        beside = min(self.num_at_once, self.num_folds - before)
        return (before + beside * done) / (self.num_folds + 1)

    @property
    def _is_final(self) -> bool:
        return self.index == self.num_folds


def _fold(fold: Fold | None) -> dict[str, int]:
    return {} if fold is None else {"fold": fold.index}


@dataclass(frozen=True)
class Stepped:
    """A logged step (or boosting round): its own mean loss, and the pace."""

    step: int
    num_steps: int
    epoch: float
    loss: float
    learning_rate: float
    rows_per_second: float
    fold: Fold | None = None
    gradient_norm: float | None = None
    memory_bytes: int | None = None
    tokens_per_row: int | None = None
    utilization: float | None = None

    @property
    def pace(self) -> tuple[float, str]:
        """How many rows a second, or of texts how many tokens; and which of them."""
        if self.tokens_per_row is None:
            return self.rows_per_second, "rows"
        return self.rows_per_second * self.tokens_per_row, "tokens"

    def row(self) -> dict[str, Any]:
        """As the metric log holds it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "train/loss": self.loss,
            "learning_rate": self.learning_rate,
            f"{self.pace[1]}_per_second": self.pace[0],
            **({} if self.gradient_norm is None else {"gradient_norm": self.gradient_norm}),
            **({} if self.memory_bytes is None else {"memory_bytes": self.memory_bytes}),
            **({} if self.utilization is None else {"mfu": self.utilization}),
            **_fold(self.fold),
        }


@dataclass(frozen=True)
class Validated:
    """Metrics on the validation rows; `progress` counts the model's own unit."""

    step: int
    epoch: float
    progress: int
    metrics: Mapping[str, float]
    score: float
    improved: bool
    fold: Fold | None = None

    def row(self) -> dict[str, Any]:
        """As the metric log holds it."""
        values = {f"validation/{name}": value for name, value in self.metrics.items()}
        return {"step": self.step, "epoch": self.epoch, **values, **_fold(self.fold)}


@dataclass(frozen=True)
class StoppedEarly:
    """Training has ended before its length: the objective got no better for too long. Places
    count the model's own unit (`epochs`, `steps`, `rounds`).
    """

    step: int
    unit: str
    best: int
    reached: int
    length: int
    objective: str
    best_score: float | None
    num_worse: int
    fold: Fold | None = None

    def __str__(self) -> str:
        unit = self.unit.removesuffix("s")
        fold = "" if self.fold is None else f"{self.fold}: "
        score = "none" if self.best_score is None else f"{self.best_score:.4g}"
        waited = "1 validation was" if self.num_worse == 1 else f"{self.num_worse} validations were"
        kept = "" if self.fold else f"; the model is that of {unit} {self.best}"
        return (
            f"{fold}stopped early at {unit} {self.reached} of {self.length}: {self.objective} was "
            f"best at {unit} {self.best} ({score}), and {waited} no better since "
            f"(`train.early_stopping`){kept}"
        )


@dataclass(frozen=True)
class Noted:
    """Something a person should read."""

    text: str


@dataclass(frozen=True)
class Placed:
    """Where a rank runs: its host, and its node's id at Ray."""

    rank: int
    size: int
    host: str
    node: str

    def __str__(self) -> str:
        return f"{self.host} {self.node[:8]}"


@dataclass(frozen=True)
class Stuck:
    """A rank has not moved for a while: where it stands."""

    rank: int
    seconds: float
    stack: str

    def __str__(self) -> str:
        return (
            f"rank {self.rank} has not moved for {self.seconds:.0f} s; it stands at\n{self.stack}"
        )


@dataclass(frozen=True)
class Committed:
    """A checkpoint that no single fault can lose any more."""

    step: int
    best: bool


@dataclass(frozen=True)
class Stopped:
    """Training ended early because it was asked to; `--resume` continues."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The model is trained. `metrics[side]` holds all metrics of the task; `details` what the
    report draws (confusion counts, residuals). `progress` is the best length in the model's
    own unit; `folds` the metrics of each fold on its validation rows.
    """

    step: int
    metrics: Mapping[str, Mapping[str, float]]
    score: float
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    progress: int = 0
    folds: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Failed:
    """Training cannot go on, and a restart would not help."""

    message: str
    exit_status: int


LoopEvent = Resumed | Stepped | Validated | StoppedEarly | Committed | Stopped
Event = LoopEvent | Noted | Placed | Stuck | Finished | Failed


def paused_again(
    history: Sequence[Mapping[str, Any]], objective: str, steps_per_unit: int
) -> Iterator[LoopEvent]:
    """The events of a training that was resumed just where it is to pause: the last validation,
    as its history tells it.
    """
    row = next(row for row in reversed(history) if f"validation/{objective}" in row)
    metrics = {
        name.removeprefix("validation/"): value
        for name, value in row.items()
        if name.startswith("validation/")
    }
    progress, score = row["step"] // steps_per_unit, metrics[objective]
    score = float("nan") if score is None else score  # as files hold it
    yield Validated(row["step"], row["epoch"], progress, metrics, score, False)
    yield Stopped(row["step"])
