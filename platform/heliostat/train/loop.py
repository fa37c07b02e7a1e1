"""The training loop: plain torch, no Ray. Model, batches and optimizer in, events out.

A generator: whoever iterates decides when it goes on, so the same loop serves a run, a trial
that pauses at rungs, and a test with a list of batches.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heliostat.errors import TrainError
from heliostat.models.network import cpu_state, load_weights
from heliostat.parallel.apply import clip, gradient_norm, is_cut
from heliostat.parallel.pipeline import stage_of
from heliostat.parallel.world import World
from heliostat.train.checkpoint import Checkpoint, Checkpoints
from heliostat.train.control import Control
from heliostat.train.events import (
    Committed,
    LoopEvent,
    Resumed,
    Stepped,
    Stopped,
    StoppedEarly,
    Validated,
    paused_again,
)
from heliostat.train.optim import load_optimizer_tensors, optimizer_tensors
from heliostat.train.optimizer import Optimizer
from heliostat.train.passes import passes_of
from heliostat.train.saver import Saver
from heliostat.train.scaling import LossScale
from heliostat.train.shards import ShardWriter, is_sharded, restore_shards
from heliostat.train.stopping import Progress
from heliostat.train.task import Fit, TensorBatch
from heliostat.train.trouble import REMEDY, gradient_trouble

MOST_SECONDS_BETWEEN_LOGS = 10.0
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


def fit(task: Fit, world: World, checkpoints: Checkpoints, control: Control) -> Iterator[LoopEvent]:
    """Train to the end, to a stop, or to early stopping.

    Raises:
        TrainError: a loss is not finite; names the first such step.
    """
    loop = _Loop(task, world, checkpoints, control)
    yield from loop.resume()
    if loop.is_at_pause:
        yield from paused_again(loop.history, task.objective, task.steps_per_unit)
        return
    yield from loop.run()


class _Loop:
    def __init__(self, task: Fit, world: World, checkpoints: Checkpoints, control: Control) -> None:
        self.task, self.world, self.checkpoints, self.control = task, world, checkpoints, control
        self.progress = Progress()
        self.scale = LossScale.of(task.precision)
        self.step = 0
        self.rates = [group["lr"] for group in task.optimizer.param_groups]
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        self.stage = stage_of(task.model)
        self.device = self.parameters[0].device.type
        self.passes = passes_of(task, world)
        # Where a model that is cut breaks, all its ranks must look, and one may see it alone.
        self.looks_together = is_cut(task.model) and world.size > 1
        self.gradient_norm = torch.zeros(())
        self.log_every = task.log_every
        self.saver = Saver()
        self.shards = ShardWriter.of(task.model, world, checkpoints)
        self.pending: list[Tensor] = []  # shares of the losses of steps not logged yet
        self.rows_seen = 0
        self.history: list[dict[str, Any]] = []
        self.clock = time.perf_counter()

    def resume(self) -> Iterator[LoopEvent]:
        checkpoint, skipped = self.checkpoints.latest()
        if checkpoint is not None:
            restore(checkpoint, self.task.model, self.task.optimizer)
            self.progress = Progress.from_json(checkpoint.manifest["progress"])
            if "loss_scale" in checkpoint.manifest:
                self.scale = LossScale.from_json(checkpoint.manifest["loss_scale"])
            self.step = checkpoint.step
            self.log_every = checkpoint.manifest.get("log_every", self.log_every)
            self.history = list(checkpoint.manifest["history"])
            yield Resumed(self.step, tuple(skipped), tuple(self.history))

    @property
    def is_at_pause(self) -> bool:
        """Whether it has come to where it pauses."""
        pause = self.task.pause_step
        return pause is not None and pause <= self.step < self.task.num_steps

    def run(self) -> Iterator[LoopEvent]:
        task = self.task
        task.model.train()
        batches = task.batches(self.step)
        self.clock = time.perf_counter()
        while self.step < task.num_steps and not self._exhausted():
            self._update(next(batches))
            self.step += 1
            validate = task.validates and (
                self.step % task.validate_every == 0 or self.step == task.num_steps
            )
            must_save = (
                bool(task.checkpoint_every) and self.step % (task.checkpoint_every or 1) == 0
            )
            if not (
                validate
                or must_save
                or self.step % self.log_every == 0
                or self.step in (1, task.num_steps)
            ):
                continue
            stop, due = yield from self._log()
            yield from self.saver.committed()
            improved = False
            if validate:
                improved = yield from self._validate()
                stop = stop or self.is_at_pause
            # A stop is honoured at once, but not in place of the end.
            stop = stop and self.step < task.num_steps
            due = due or must_save or stop
            if improved or due:
                self._commit(improved, due)
            if stop:
                yield from self.saver.committed(wait=True)
                yield Stopped(self.step)
                return
        yield from self.saver.committed(wait=True)
        self.world.sum(np.zeros(1))  # no rank goes on before the last checkpoint is committed
        if self.step < task.num_steps:
            yield self._early()

    def _exhausted(self) -> bool:
        patience = self.task.patience
        return patience is not None and self.progress.num_worse >= patience

    def _early(self) -> StoppedEarly:
        task, a_unit = self.task, self.task.steps_per_unit
        return StoppedEarly(
            self.step,
            task.unit,
            self.progress.best_step // a_unit,
            self.step // a_unit,
            task.num_steps // a_unit,
            task.objective,
            self.progress.best_score,
            self.progress.num_worse,
        )

    def _update(self, batch: TensorBatch) -> None:
        task = self.task
        factor = task.rate(self.step, self.progress)
        for group, rate in zip(task.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        task.optimizer.zero_grad()
        share = self.passes.gradients(batch, self.step, self.scale.scale)
        self._look(batch, share)
        if task.precision == "float16" and self._overflowed():
            task.optimizer.zero_grad()
        elif task.clip_norm is not None:
            self._clip(task.clip_norm)
        task.optimizer.step()
        self.pending.append(share)
        self.rows_seen += batch.global_rows

    def _overflowed(self) -> bool:
        """Scale the gradients back, or tell that they are too large for float16.

        Raises:
            TrainError: no scale makes them finite.
        """
        norm = gradient_norm(self.parameters, self.stage)
        overflowed = not math.isfinite(float(norm))
        for parameter in self.parameters if not overflowed else ():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.scale.scale)
        self.scale = self.scale.after(overflowed)
        if self.scale.is_exhausted:
            raise TrainError(gradient_trouble(self.task.model, self.step + 1))
        return overflowed

    def _look(self, batch: TensorBatch, share: Tensor) -> None:
        """Where looking costs nothing, see at once whether the loss is finite. A gradient that is
        not makes the next one so, and what is logged looks at the gradients themselves.

        Raises:
            TrainError: names the first module or gradient that is not.
        """
        if self.device != "cpu":  # to look on a GPU would be to wait for it; `_log` does
            return
        loss = float(share)
        if self.looks_together:
            loss = float(self.world.sum(np.array([loss]))[0]) / self.world.size
        if not math.isfinite(loss):
            raise TrainError(self.passes.trouble(batch, self.step, loss))

    def _clip(self, max_norm: float) -> None:
        self.gradient_norm = gradient_norm(self.parameters, self.stage)
        if self.device == "cpu" and not math.isfinite(float(self.gradient_norm)):
            raise TrainError(gradient_trouble(self.task.model, self.step + 1))
        clip(self.parameters, max_norm, self.gradient_norm)

    def _log(self) -> Generator[LoopEvent, None, tuple[bool, bool]]:
        """Sum the pending losses over ranks; learn whether to stop or to checkpoint."""
        shares = torch.stack(self.pending).double().div_(self.world.size).tolist()
        seconds = time.perf_counter() - self.clock
        wishes = [self.control.stop_requested(), self.control.checkpoint_due(), seconds]
        total = self.world.sum(np.array([*shares, *wishes]))
        *losses, stops, is_due, all_seconds = total.tolist()
        self.log_every = self._log_interval(all_seconds / self.world.size / len(losses))
        first = self.step - len(losses)
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise TrainError(f"the training loss is {loss} at step {first + i + 1}; {REMEDY}")
        if self.task.clip_norm is None:
            self.gradient_norm = gradient_norm(self.parameters, self.stage)
        if not math.isfinite(float(self.gradient_norm)):
            raise TrainError(gradient_trouble(self.task.model, self.step))
        rows_per_second = self.rows_seen / max(seconds, 1e-9)
        event = Stepped(
            step=self.step,
            num_steps=self.task.num_steps,
            epoch=self.step / self.task.steps_per_epoch,
            loss=sum(losses) / len(losses),
            learning_rate=self.task.optimizer.param_groups[0]["lr"],
            rows_per_second=rows_per_second,
            gradient_norm=float(self.gradient_norm),
            memory_bytes=peak_memory_bytes(self.device),
            tokens_per_row=self.task.tokens_per_row,
            utilization=self.task.utilization(rows_per_second),
        )
        self.history.append({"time": time.time()} | event.row())
        yield event
        self.pending, self.rows_seen = [], 0
        self.clock = time.perf_counter()
        return stops > 0, is_due > 0

    def _log_interval(self, step_seconds: float) -> int:
        """Steps from one log to the next: halved until nobody waits long for a sign, a stop, or a
        checkpoint just in time.
        """
        interval = self.task.log_every
        while interval > 1 and interval * step_seconds > MOST_SECONDS_BETWEEN_LOGS:
            interval //= 2
        return interval

    def _validate(self) -> Generator[LoopEvent, None, bool]:
        metrics = self.task.evaluate()
        score = metrics[self.task.objective]
        before = self.progress
        tie = None if self.task.tie_metric is None else metrics[self.task.tie_metric]
        self.progress = before.after(score, self.step, self.task.goal, self.task.plateau, tie)
        improved = self.progress.best_step == self.step
        progress = self.step // self.task.steps_per_unit
        epoch = self.step / self.task.steps_per_epoch
        event = Validated(self.step, epoch, progress, metrics, score, improved)
        self.history.append({"time": time.time()} | event.row())
        yield event
        self.clock = time.perf_counter()
        return improved

    def _commit(self, best: bool, due: bool) -> None:
        manifest, model = self._manifest(), self.task.model
        if self.shards is not None:
            self.saver.start(self.shards.saving(manifest, best, model, self.task.optimizer))
        elif self.world.leads or is_cut(model):
            files = self._files()
            if self.world.leads:
                self.saver.start(partial(self._save, manifest, files, best, due))
        self.control.checkpoint_done()
        self.clock = time.perf_counter()

    def _save(
        self,
        manifest: dict[str, Any],
        files: Mapping[str, dict[str, Tensor]],
        best: bool,
        due: bool,
    ) -> Committed:
        self.checkpoints.save(manifest, partial(write_tensors, files), best, due)
        return Committed(int(manifest["step"]), best)

    def _manifest(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.step // self.task.steps_per_epoch,
            "cursor": self.step % self.task.steps_per_epoch,
            "seed": self.task.seed,
            "world": self.world.size,
            "progress": self.progress.to_json(),
            "loss_scale": self.scale.to_json(),
            "log_every": self.log_every,
            "history": list(self.history),
        } | dict(self.task.manifest)

    def _files(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds, whole: of a model that is cut, every rank must ask."""
        model = self.task.model
        return {WEIGHTS: cpu_state(model), OPTIMIZER: optimizer_tensors(self.task.optimizer, model)}


def write_tensors(files: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    """Write a checkpoint's files into `folder`."""
    for name, tensors in files.items():
        save_file(dict(tensors), str(folder / name))


def peak_memory_bytes(device: str) -> int:
    """The most that this process has held: on its GPU, else of the machine's memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state back."""
    if is_sharded(checkpoint):
        restore_shards(checkpoint, model, optimizer)
        return
    load_weights(model, checkpoint.folder / WEIGHTS)
    load_optimizer_tensors(optimizer, model, load_file(str(checkpoint.folder / OPTIMIZER)))
