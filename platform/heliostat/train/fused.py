"""Train several trials as one stacked model: one batch read, one forward and backward pass and few
larger products where each trial alone would make many small ones.

The gradient of the sum of the trials' losses is, for each trial's weights, the gradient of its own
loss. Seed, learning rate, weight decay, clip norm, schedule, dropout and early stopping are each
trial's own; the data set, shapes, batch size and length are common. A trial's checkpoints are those
it would write alone, so that it can go on in any company.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from heliostat.models.network import NetworkPredictor, build_network, load_weights
from heliostat.models.predictor import Scores
from heliostat.models.stacked import stacked
from heliostat.parallel.world import SoloWorld
from heliostat.spec.model import NetworkModel
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.artifact import save_model
from heliostat.train.assignment import Assignment
from heliostat.train.checkpoint import Checkpoint, Checkpoints
from heliostat.train.cohort_rows import CohortBatch, CohortRows, Source, sources_of
from heliostat.train.control import Control
from heliostat.train.events import (
    Committed,
    Event,
    Failed,
    Finished,
    Resumed,
    Stepped,
    Stopped,
    Validated,
    paused_again,
)
from heliostat.train.job import checkpoints_of
from heliostat.train.loop import OPTIMIZER, WEIGHTS, peak_memory_bytes, write_tensors
from heliostat.train.losses import row_losses
from heliostat.train.metrics import compute_metrics
from heliostat.train.network import LOGGED_STEPS, device_of
from heliostat.train.optim import rate_factor
from heliostat.train.scaling import LossScale
from heliostat.train.scoring import evaluated_metrics, side_metrics, side_scores
from heliostat.train.stacked_optim import StackedOptimizer
from heliostat.train.stopping import Progress
from heliostat.train.trouble import REMEDY

SCORED_ROWS_AT_ONCE = 65_536  # of all models together
Told = tuple[int, Event]


def train_fused(assignments: Sequence[Assignment], control: Control) -> Iterator[Told]:
    """Train all, yielding (place in `assignments`, event); the last event of each is `Finished`,
    `Stopped` (it pauses, with a checkpoint) or `Failed`.
    """
    keep_freed_memory()
    sources = sources_of(assignments)
    members = [_Member(place, a, sources[a.spec.seed]) for place, a in enumerate(assignments)]
    alike: dict[tuple[object, ...], list[_Member]] = {}
    for member in members:
        yield from member.resume()
        if member.is_at_pause:
            objective = member.assignment.spec.objective_metric
            again = paused_again(member.history, objective, member.steps_per_unit)
            yield from ((member.place, event) for event in again)
        else:
            alike.setdefault((member.step, *member.source.form), []).append(member)
    for company in sorted(alike.values(), key=lambda company: company[0].step):
        yield from _Cohort(company, sources, control).run()


@dataclass
class _Member:
    """A trial of a cohort."""

    place: int
    assignment: Assignment
    source: Source
    module: nn.Module = field(init=False)
    progress: Progress = field(default_factory=Progress)
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer_state: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    best_scores: Any = None
    has_ended: bool = False

    def __post_init__(self) -> None:
        spec = self.assignment.spec
        assert isinstance(spec.model, NetworkModel)
        torch.manual_seed(spec.seed)
        self.data = self.source.data
        self.module = build_network(spec.model, self.data.shape, self.source.randomness, None)
        self.checkpoints: Checkpoints = checkpoints_of(self.assignment, SoloWorld())
        per_epoch = -(-self.data.num_examples // spec.train.batch_size)
        self.steps_per_epoch = per_epoch
        self.steps_per_unit = per_epoch if spec.unit == "epochs" else 1
        self.num_steps = spec.length * self.steps_per_unit

    def resume(self) -> Iterator[Told]:
        """Go on from the last checkpoint, if there is one."""
        checkpoint, skipped = self.checkpoints.latest()
        if checkpoint is None:
            return
        load_weights(self.module, checkpoint.folder / WEIGHTS)
        self.optimizer_state = load_file(str(checkpoint.folder / OPTIMIZER))
        self.progress = Progress.from_json(checkpoint.manifest["progress"])
        self.history = list(checkpoint.manifest["history"])
        self.step = checkpoint.step
        yield self.place, Resumed(self.step, tuple(skipped), tuple(self.history))

    @property
    def pause_step(self) -> int | None:
        """Where it pauses: at the first validation not before."""
        until = self.assignment.until
        return None if until is None else until * self.steps_per_unit

    @property
    def is_at_pause(self) -> bool:
        """Whether it has come there."""
        return self.pause_step is not None and self.pause_step <= self.step < self.num_steps

    @property
    def is_exhausted(self) -> bool:
        """Whether it has waited long enough for a better score."""
        early = self.assignment.spec.train.early_stopping
        return early is not None and self.progress.num_worse >= early.patience

    def factor(self, step: int) -> float:
        """What its learning rate is multiplied by."""
        schedule = self.assignment.spec.train.schedule
        return rate_factor(schedule, step, self.num_steps, self.progress.num_drops)


class _Cohort:
    """Trials that stand at the same step."""

    def __init__(
        self, members: list[_Member], sources: Mapping[int, Source], control: Control
    ) -> None:
        self.members, self.control = members, control
        first = members[0]
        self.step = first.step
        self.spec = first.assignment.spec
        self.device = device_of(first.assignment)
        torch.set_num_threads(max(1, int(self.spec.scale.resources.cpu)))
        self.row_losses = row_losses(self.spec.train.loss, self.spec.data.task)
        self.log_every = max(1, first.num_steps // LOGGED_STEPS)
        self.validate_every = self.spec.train.validate_every * first.steps_per_unit
        self.validates = len(first.data.rows("validation")) > 0
        self.rows = CohortRows(sources, self._seeds, self.step, self.device)
        self._stack()
        self.pending: list[Tensor] = []
        self.rows_seen = 0
        self.clock = time.perf_counter()

    def run(self) -> Iterator[Told]:
        """Train until each member has ended."""
        while self.living:
            self._update(self.rows.next(self.step))
            self.step += 1
            last = self.step == self.first.num_steps
            validate = self.validates and (self.step % self.validate_every == 0 or last)
            if validate or last or self.step == 1 or self.step % self.log_every == 0:
                yield from self._log()
                if validate:
                    yield from self._validate()
                yield from self._ends(validate, last)
                self._compact()
                self.clock = time.perf_counter()

    @property
    def living(self) -> list[_Member]:
        """Those that still train."""
        return [member for member in self.members if not member.has_ended]

    @property
    def _seeds(self) -> list[int]:
        return [member.assignment.spec.seed for member in self.members]

    def _stack(self) -> None:
        """One model of all members' modules, and its optimizer."""
        self.first = self.members[0]
        self.rows.seat(self._seeds)
        whole = stacked([member.module for member in self.members], self.rows.are_own)
        self.model = whole.to(self.device).train()
        specs = [m.assignment.spec.train for m in self.members]
        self.optimizer = StackedOptimizer(
            [spec.optimizer for spec in specs], [spec.clip_norm for spec in specs], self.model
        )
        self.optimizer.load([m.optimizer_state for m in self.members], self.step)

    def _compact(self) -> None:
        """Leave the ended behind once they are half: until then their slices train in vain."""
        living = self.living
        if not living or len(living) > len(self.members) // 2:
            return
        for place, member in enumerate(self.members):
            if not member.has_ended:
                self._unstack(place, member)
        self.members = living
        self._stack()

    def _unstack(self, place: int, member: _Member) -> None:
        """Put a member's slice back into a module of its own."""
        state = self.model.state_dict()
        member.module.load_state_dict({name: value[place] for name, value in state.items()})
        member.optimizer_state = self.optimizer.state_of(place)

    def _update(self, batch: CohortBatch) -> None:
        factors = [member.factor(self.step) for member in self.members]
        outputs = self.model(batch.numbers, batch.categories)
        each = self.row_losses(outputs.flatten(0, 1), batch.targets).view(len(self.members), -1)
        losses = torch.linalg.vecdot(each, batch.weights)
        self.optimizer.step(losses.sum(), factors)
        self.pending.append(losses.detach())
        self.rows_seen += batch.num_rows

    def _log(self) -> Iterator[Told]:
        losses = torch.stack(self.pending).double().cpu().numpy()
        norms = self.optimizer.norms()
        pace = self.rows_seen / max(time.perf_counter() - self.clock, 1e-9)
        self.pending, self.rows_seen = [], 0
        for place, member in enumerate(self.members):
            if member.has_ended:
                continue
            bad = np.flatnonzero(~np.isfinite(losses[:, place]))
            if len(bad) or not math.isfinite(norms[place]):
                member.has_ended = True
                yield member.place, Failed(self._trouble(losses[:, place], bad), 1)
                continue
            event = Stepped(
                step=self.step,
                num_steps=member.num_steps,
                epoch=self.step / member.steps_per_epoch,
                loss=float(losses[:, place].mean()),
                learning_rate=self.optimizer.rates[place] * member.factor(self.step - 1),
                rows_per_second=pace,
                gradient_norm=norms[place],
                memory_bytes=peak_memory_bytes(self.device.type),
            )
            member.history.append({"time": time.time()} | event.row())
            yield member.place, event

    def _trouble(self, losses: Any, bad: Any) -> str:
        if len(bad):
            step = self.step - len(losses) + int(bad[0]) + 1
            return f"the training loss is {losses[bad[0]]} at step {step}; {REMEDY}"
        return f"a gradient is not finite at step {self.step}; {REMEDY}"

    def _validate(self) -> Iterator[Told]:
        scores = self._scores()
        spec, plateau = self.spec, [m.assignment.spec.train.schedule.patience for m in self.members]
        for place, member in enumerate(self.members):
            if member.has_ended:
                continue
            target, weights = member.source.validation
            metrics = compute_metrics(
                spec.data.task, evaluated_metrics(spec), target, scores[place], weights
            )
            score = metrics[spec.objective_metric]
            goal = spec.objective_goal
            tie = None if spec.tie_metric is None else metrics[spec.tie_metric]
            member.progress = member.progress.after(score, self.step, goal, plateau[place], tie)
            improved = member.progress.best_step == self.step
            if improved or member.assignment.spec.train.early_stopping is None:
                member.best_scores = scores[place]
            if improved and member.assignment.spec.train.early_stopping is not None:
                self._save(place, member, best=True, due=False)
            done, epoch = self.step // member.steps_per_unit, self.step / member.steps_per_epoch
            event = Validated(self.step, epoch, done, metrics, score, improved)
            member.history.append({"time": time.time()} | event.row())
            yield member.place, event

    @torch.no_grad()
    def _scores(self) -> list[Scores]:
        """Of each member's validation rows, in the target's own units."""
        self.model.eval()
        predictor = NetworkPredictor(self.model, self.first.data.shape, self.device)
        at_once = max(256, SCORED_ROWS_AT_ONCE // len(self.members))
        parts = [
            predictor.squashed(self.model(numbers, categories)).cpu().numpy()
            for numbers, categories in self.rows.validation(at_once)
        ]
        self.model.train()
        scores = np.concatenate(parts, 1)
        targets = [member.data.encoder.target for member in self.members]
        return [
            own if target.classes else own * target.scale + target.offset
            for own, target in zip(scores, targets, strict=True)
        ]

    def _ends(self, validated: bool, last: bool) -> Iterator[Told]:
        stops = self.control.stop_requested()
        due = stops or self.control.checkpoint_due()
        for place, member in enumerate(self.members):
            if member.has_ended:
                continue
            member.step = self.step
            if last or member.is_exhausted:
                member.has_ended = True
                yield member.place, self._finished(place, member)
            elif (validated and member.is_at_pause) or due:
                self._save(place, member, best=False, due=True)
                yield member.place, Committed(self.step, False)
                if stops or (validated and member.is_at_pause):
                    member.has_ended = True
                    yield member.place, Stopped(self.step)
        if due:
            self.control.checkpoint_done()

    def _save(self, place: int, member: _Member, best: bool, due: bool) -> None:
        self._unstack(place, member)
        files = {WEIGHTS: _whole(member.module.state_dict()), OPTIMIZER: member.optimizer_state}
        manifest = {
            "step": self.step,
            "epoch": self.step // member.steps_per_epoch,
            "cursor": self.step % member.steps_per_epoch,
            "seed": member.assignment.spec.seed,
            "world": 1,
            "progress": member.progress.to_json(),
            "loss_scale": LossScale.of("float32").to_json(),
            "log_every": self.log_every,
            "history": list(member.history),
        }
        member.checkpoints.save(manifest, partial(write_tensors, files), best, due)

    def _finished(self, place: int, member: _Member) -> Finished:
        self._unstack(place, member)
        spec, data = member.assignment.spec, member.data
        best_step, predictor = self.step, NetworkPredictor(member.module, data.shape)
        best: Checkpoint | None = None
        if spec.train.early_stopping is not None and (best := member.checkpoints.best()):
            load_weights(member.module, best.folder / WEIGHTS)
            best_step = best.step
        save_model(member.assignment, data, predictor)
        scores = member.best_scores
        if scores is None:  # of before a pause
            scores = side_scores(data, "validation", predictor, SoloWorld())
        metrics, details = side_metrics(spec, data, "validation", scores)
        return Finished(
            self.step, {"validation": metrics}, metrics.get(spec.objective_metric, math.nan),
            {"validation": details}, progress=best_step // member.steps_per_unit,
        )  # fmt: skip


def _whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
