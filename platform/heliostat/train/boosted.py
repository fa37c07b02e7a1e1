"""Train XGBoost so that neither the number of workers nor an interruption changes a byte.

Every rank cuts bins from the same reference sample and starts from the same base score;
gradients lie on a grid on which their sums are exact; rows are drawn by hash. Where columns are
sampled, training goes in segments of fixed length, each with a new sampler and a seed of its own:
XGBoost's sampler keeps state that no file holds, so only a segment's begin can be resumed from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from heliostat.data.hashing import key_of, mix
from heliostat.data.reader import rank_slice
from heliostat.models.boosted import (
    BOOSTER,
    BoosterPredictor,
    Gradients,
    base_score,
    check_device,
    parameters,
    quantum_of,
)
from heliostat.models.predictor import Scores
from heliostat.parallel.device import training_device
from heliostat.parallel.world import World, gather
from heliostat.plan.counts import SIDES
from heliostat.spec.model import XGBoostModel
from heliostat.train.artifact import save_model
from heliostat.train.assignment import Assignment, OpenData
from heliostat.train.checkpoint import Checkpoints
from heliostat.train.control import Control
from heliostat.train.events import (
    Committed,
    Event,
    Finished,
    Resumed,
    Stepped,
    Stopped,
    StoppedEarly,
    Validated,
    paused_again,
)
from heliostat.train.metrics import compute_metrics
from heliostat.train.quantised import quantised
from heliostat.train.scoring import evaluated_metrics, final_metrics
from heliostat.train.stopping import Progress

SEGMENT_ROUNDS = 20


def train_boosted(
    assignment: Assignment, data: OpenData, world: World, checkpoints: Checkpoints, control: Control
) -> Iterator[Event]:
    """Train, keep the best rounds if the job stops early, score, and publish the model."""
    trainer = _Trainer(assignment, data, world, checkpoints, control)
    yield from trainer.resume()
    if trainer.is_at_pause:
        yield from paused_again(trainer.history, assignment.spec.objective_metric, 1)
        return
    for event in trainer.run():
        yield event
        if isinstance(event, Stopped):
            return
    spec = assignment.spec
    device = trainer.parameters["device"]
    predictor = BoosterPredictor(trainer.final_booster(), data.shape, device)
    if world.leads:
        save_model(assignment, data, predictor)
    sides = SIDES if assignment.final else ("validation",)
    known = trainer.known_scores(sides)
    metrics, details = final_metrics(spec, data, predictor, world, sides, known)
    score = metrics.get("validation", {}).get(spec.objective_metric, float("nan"))
    progress = predictor.booster.num_boosted_rounds()
    yield Finished(trainer.round, metrics, score, details, progress=progress)


@dataclass(frozen=True)
class _Safe:
    """The last round that can be resumed from, and what was known there."""

    round: int
    progress: Progress
    history: tuple[dict[str, Any], ...]


class _Trainer:
    def __init__(
        self,
        assignment: Assignment,
        data: OpenData,
        world: World,
        checkpoints: Checkpoints,
        control: Control,
    ) -> None:
        assert isinstance(assignment.spec.model, XGBoostModel)
        self.model = assignment.spec.model
        self.spec, self.data, self.world = assignment.spec, data, world
        self.checkpoints, self.control = checkpoints, control
        self.until = assignment.until
        self.scores: Scores | None = None  # of the validation rows, by the rounds that are kept
        self.progress = Progress()
        self.round = 0
        self.safe = _Safe(0, Progress(), ())
        self.booster: xgboost.Booster | None = None
        self.begun_from: bytearray | None = None
        self.segment_rounds = SEGMENT_ROUNDS if _samples_columns(self.model) else 1
        self.saved_round = 0
        self.history: list[dict[str, Any]] = []
        threads = max(1, int(self.spec.scale.resources.cpu))
        targets = data.reader.targets(data.rows("train"))
        weights = self._weights(np.asarray(data.rows("train")), targets)
        score = base_score(self.spec.data.task, targets, data.reader.weights(data.rows("train")))
        device = training_device(self.spec.scale.resources.gpu)
        check_device(device)
        self.parameters = parameters(self.model, data.shape, score, threads, device)
        self.matrices = quantised(assignment, data, world, self.model.max_bin, threads)
        self.gradients = Gradients(
            self.spec.data.task,
            self.matrices.target,
            self._weights(self.matrices.rows, self.matrices.target),
            quantum_of(self.spec.data.task, targets, weights, score),
        )
        self.clock = time.perf_counter()

    def resume(self) -> Iterator[Event]:
        checkpoint, skipped = self.checkpoints.latest()
        if checkpoint is not None:
            self.begun_from = bytearray((checkpoint.folder / BOOSTER).read_bytes())
            self.progress = Progress.from_json(checkpoint.manifest["progress"])
            self.round = self.saved_round = checkpoint.step
            self.history = list(checkpoint.manifest["history"])
            self.safe = _Safe(self.round, self.progress, tuple(self.history))
            yield Resumed(self.round, tuple(skipped), tuple(self.history))

    def run(self) -> Iterator[Event]:
        spec = self.spec
        length = spec.length
        every_steps = spec.scale.checkpoint.every_steps
        due = False
        while self.round < length and not self._exhausted():
            if self.round == self.safe.round:
                self._start_segment()
            self._boost()
            self.round += 1
            if self.round % spec.train.validate_every == 0 or self.round == length:
                yield from self._evaluate()
            if self.round % self.segment_rounds == 0:
                self.safe = _Safe(self.round, self.progress, tuple(self.history))
            stop, wish = self._wishes()
            validated = self.round % spec.train.validate_every == 0
            stop = (stop or (validated and self.is_at_pause)) and self.round < length
            due = due or wish
            unsaved = self.safe.round - self.saved_round
            if unsaved and (due or stop or (every_steps and unsaved >= every_steps)):
                yield from self._commit()
                due = False
            if stop:
                # What came after the safe round is done again.
                yield Stopped(self.safe.round)
                return
        if self.round < length:
            yield StoppedEarly(
                self.round, spec.unit, self.progress.best_step, self.round, length,
                spec.objective_metric, self.progress.best_score, self.progress.num_worse,
            )  # fmt: skip

    @property
    def is_at_pause(self) -> bool:
        """Whether it has come to where it pauses."""
        return self.until is not None and self.until <= self.round < self.spec.length

    def final_booster(self) -> xgboost.Booster:
        """The booster up to its best round if the job stops early, else all of it."""
        kept = self._num_kept()
        whole = self._booster() if kept == self.round else self._up_to(kept)
        # One that was ever loaded writes its base score in another way: let all have been.
        return xgboost.Booster(self.parameters, model_file=whole.save_raw("ubj"))

    def _num_kept(self) -> int:
        if self.spec.train.early_stopping is None or self.progress.best_score is None:
            return self.round
        return self.progress.best_step

    def known_scores(self, sides: Sequence[str]) -> dict[str, Scores]:
        """Of the sides whose rows are at hand as bins, those of the rounds that are kept; the same
        bits as from the rows' own values, as trees only ask on which side of a bin's edge they lie.
        """
        known = {} if self.scores is None else {"validation": self.scores}
        if "train" in sides:
            part = self._booster().predict(
                self.matrices.train, iteration_range=(0, self._num_kept())
            )
            rows = self.data.rows("train")
            mine = rank_slice(len(rows), self.world.rank, self.world.size)
            part = self.matrices.in_row_order(part).astype(np.float64)
            known["train"] = gather(self.world, part, mine.start, len(rows))
        return known

    def _exhausted(self) -> bool:
        early = self.spec.train.early_stopping
        return early is not None and self.progress.num_worse >= early.patience

    def _weights(
        self, rows: npt.NDArray[np.int64], target: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """What gradients are multiplied by."""
        weights = self.data.reader.weights(rows)
        if self.spec.data.task != "binary":
            return weights
        return weights * np.where(target == 1, self.model.scale_pos_weight, 1.0)

    def _booster(self) -> xgboost.Booster:
        if self.booster is None:
            cache = [m for m in (self.matrices.train, self.matrices.validation) if m is not None]
            own = self.parameters | {"seed": self._segment_seed()}
            self.booster = xgboost.Booster(own, cache, model_file=self.begun_from)
        return self.booster

    def _up_to(self, num_rounds: int) -> xgboost.Booster:
        part: xgboost.Booster = self._booster()[:num_rounds]
        return part

    def _start_segment(self) -> None:
        """Give the booster a new column sampler, as one has that is loaded here from its bytes;
        but keep the margins that it has at hand, which would cost a pass over all its trees.
        """
        if self.booster is None or self.segment_rounds == 1:
            return
        # Another method, then this one again: XGBoost makes its tree builders anew.
        for method, seed in (("approx", {}), ("hist", {"seed": self._segment_seed()})):
            self.booster.set_param({"tree_method": method, **seed})
            self.booster.save_config()  # settings take hold only when they are needed

    def _segment_seed(self) -> int:
        begin = self.round // self.segment_rounds * self.segment_rounds
        return int(key_of(self.spec.seed, "segment", begin) >> np.uint64(33))

    def _boost(self) -> None:
        train, booster = self.matrices.train, self._booster()
        margins = booster.predict(train, output_margin=True, training=True)
        first, second = self.gradients(margins)
        if self.model.subsample < 1:
            key = key_of(self.spec.seed, "subsample", self.round)
            quantiles = (mix(self.matrices.rows.astype(np.uint64) ^ key) >> np.uint64(11)) / 2**53
            left_out = quantiles >= self.model.subsample
            first[left_out], second[left_out] = 0, 0
        booster.boost(train, iteration=self.round, grad=first, hess=second)

    def _evaluate(self) -> Iterator[Event]:
        yield self._kept(self._training_loss())
        if self.matrices.validation is None:
            self.clock = time.perf_counter()
            return
        rows = self.data.rows("validation")
        mine = rank_slice(len(rows), self.world.rank, self.world.size)
        part = self._booster().predict(self.matrices.validation).astype(np.float64)
        scores = gather(self.world, part, mine.start, len(rows))
        target = self.data.reader.targets(rows)
        metrics = compute_metrics(
            self.spec.data.task,
            evaluated_metrics(self.spec),
            target,
            scores,
            self.data.reader.weights(rows),
        )
        score = metrics[self.spec.objective_metric]
        tie = None if self.spec.tie_metric is None else metrics[self.spec.tie_metric]
        self.progress = self.progress.after(score, self.round, self.spec.objective_goal, 0, tie)
        improved = self.progress.best_step == self.round
        if improved or self.spec.train.early_stopping is None:
            self.scores = scores
        yield self._kept(Validated(self.round, self.round, self.round, metrics, score, improved))
        self.clock = time.perf_counter()

    def _kept(self, event: Stepped | Validated) -> Event:
        self.history.append({"time": time.time()} | event.row())
        return event

    def _training_loss(self) -> Stepped:
        scores = self._booster().predict(self.matrices.train).astype(np.float64)
        target = self.matrices.target
        if self.spec.data.task == "regression":
            losses = (scores - target) ** 2
        else:
            chosen = (
                np.where(target == 1, scores, 1 - scores)
                if scores.ndim == 1
                else scores[np.arange(len(target)), target]
            )
            losses = -np.log(np.clip(chosen, np.finfo(np.float32).eps, 1))
        weights = self.data.reader.weights(self.matrices.rows)
        sums = [(losses * weights).sum(), weights.sum(), len(losses)]
        total = self.world.sum(np.array(sums, np.float64))
        seconds = max(time.perf_counter() - self.clock, 1e-9)
        rate = self.spec.train.validate_every * total[2] / seconds
        loss = float(total[0] / total[1]) if total[1] else math.nan
        return Stepped(
            self.round, self.spec.length, self.round, loss, self.model.learning_rate, rate
        )

    def _wishes(self) -> tuple[bool, bool]:
        """Whether any rank was asked to stop or finds a checkpoint due."""
        own = [self.control.stop_requested(), self.control.checkpoint_due()]
        total = self.world.sum(np.array(own, np.float64))
        return bool(total[0] > 0), bool(total[1] > 0)

    def _commit(self) -> Iterator[Event]:
        if self.world.leads:
            self.checkpoints.save(self._manifest(), self._write, best=False, due=True)
        self.saved_round = self.safe.round
        self.control.checkpoint_done()
        yield Committed(self.safe.round, False)

    def _manifest(self) -> dict[str, Any]:
        return {
            "step": self.safe.round,
            "epoch": 0,
            "cursor": self.safe.round,
            "seed": self.spec.seed,
            "world": self.world.size,
            "progress": self.safe.progress.to_json(),
            "history": list(self.safe.history),
        }

    def _write(self, folder: Path) -> None:
        (folder / BOOSTER).write_bytes(self._up_to(self.safe.round).save_raw("ubj"))


def _samples_columns(model: XGBoostModel) -> bool:
    return min(model.colsample_bytree, model.colsample_bylevel, model.colsample_bynode) < 1
