"""The training loop: plain torch, no Ray. Model, batches and optimizer in, events out.

A generator: whoever iterates decides when it goes on, so the same loop serves a run, a trial
that pauses at rungs, and a test with a list of batches.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heliostat.errors import TrainError
from heliostat.models.network import cpu_state, load_weights
from heliostat.models.randomness import Randomness
from heliostat.parallel.apply import clip, gradient_norm, is_cut, local, unsynced
from heliostat.parallel.world import World
from heliostat.spec.metrics import Goal
from heliostat.train.checkpoint import Checkpoint, Checkpoints
from heliostat.train.control import Control
from heliostat.train.events import Committed, LoopEvent, Resumed, Stepped, Stopped, Validated
from heliostat.train.losses import LossSum
from heliostat.train.optim import load_optimizer_tensors, optimizer_tensors
from heliostat.train.saver import Saver
from heliostat.train.scaling import LossScale
from heliostat.train.shards import ShardWriter, is_sharded, restore_shards
from heliostat.train.stopping import Progress
from heliostat.train.trouble import REMEDY, forward_trouble, gradient_trouble

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class TensorBatch:
    """One rank's slice of a global batch of `global_rows` rows that weigh `global_weight`."""

    numbers: Tensor
    categories: Tensor
    target: Tensor
    rows: Tensor
    weights: Tensor
    global_rows: int
    global_weight: float

    def pieces(self, num_rows: int | None) -> list[TensorBatch]:
        """The slice in micro-batches of at most `num_rows` rows; at least one, maybe empty."""
        total = len(self.rows)
        if num_rows is None or total <= num_rows:
            return [self]
        cuts = [slice(start, start + num_rows) for start in range(0, total, num_rows)]
        return [
            replace(
                self, numbers=self.numbers[cut], categories=self.categories[cut],
                target=self.target[cut], rows=self.rows[cut], weights=self.weights[cut],
            )
            for cut in cuts
        ]  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Everything the loop needs. `replica` is `model` wrapped for data parallelism, or itself.

    `batches(n)` yields from the n-th batch of the run on; lengths are in steps; `evaluate()`
    gives validation metrics, the same on every rank; `rate(step, progress)` the learning-rate
    factor; `plateau` evaluations without a better one count as a plateau. A step goes by
    `micro_rows` rows of a rank at a time, halved when memory runs out if `halves_micro_rows`.
    """

    model: nn.Module
    replica: nn.Module
    optimizer: torch.optim.Optimizer
    loss_sum: LossSum
    batches: Callable[[int], Iterator[TensorBatch]]
    rate: Callable[[int, Progress], float]
    evaluate: Callable[[], Mapping[str, float]]
    objective: str
    goal: Goal
    patience: int | None
    num_steps: int
    steps_per_epoch: int
    steps_per_unit: int
    validate_every: int
    log_every: int
    checkpoint_every: int | None
    randomness: Randomness
    seed: int
    clip_norm: float | None = None
    micro_rows: int | None = None
    halves_micro_rows: bool = False
    precision: str = "float32"
    plateau: int = 0
    tokens_per_row: int | None = None
    validates: bool = True
    seed_generator: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)


def fit(task: Fit, world: World, checkpoints: Checkpoints, control: Control) -> Iterator[LoopEvent]:
    """Train to the end, to a stop, or to early stopping.

    Raises:
        TrainError: a loss is not finite; names the first such step.
    """
    loop = _Loop(task, world, checkpoints, control)
    yield from loop.resume()
    yield from loop.run()


class _Loop:
    def __init__(self, task: Fit, world: World, checkpoints: Checkpoints, control: Control) -> None:
        self.task, self.world, self.checkpoints, self.control = task, world, checkpoints, control
        self.progress = Progress()
        self.scale = LossScale.of(task.precision)
        self.step = 0
        self.rates = [group["lr"] for group in task.optimizer.param_groups]
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device.type
        self.micro_rows = task.micro_rows
        self.gradient_norm = torch.zeros(())
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
            self.history = list(checkpoint.manifest["history"])
            yield Resumed(self.step, tuple(skipped), tuple(self.history))

    def run(self) -> Iterator[LoopEvent]:
        task = self.task
        task.replica.train()
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
                or self.step % task.log_every == 0
                or self.step == task.num_steps
            ):
                continue
            stop, due = yield from self._log()
            yield from self.saver.committed()
            improved = False
            if validate:
                improved = yield from self._validate()
            # A stop is honoured at once, but not in place of the end.
            stop = stop and self.step < task.num_steps
            if improved or must_save or due or stop:
                self._commit(improved)
            if stop:
                yield from self.saver.committed(wait=True)
                yield Stopped(self.step)
                return
        yield from self.saver.committed(wait=True)
        self.world.sum(np.zeros(1))  # no rank goes on before the last checkpoint is committed

    def _exhausted(self) -> bool:
        patience = self.task.patience
        return patience is not None and self.progress.num_worse >= patience

    def _update(self, batch: TensorBatch) -> None:
        task = self.task
        factor = task.rate(self.step, self.progress)
        for group, rate in zip(task.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        share = self._gradients(batch)
        self._look(batch, share)
        if task.precision == "float16" and self._overflowed():
            task.optimizer.zero_grad(set_to_none=True)
        elif task.clip_norm is not None:
            self.gradient_norm = gradient_norm(self.parameters)
            clip(self.parameters, task.clip_norm, self.gradient_norm)
        task.optimizer.step()
        self.pending.append(share)
        self.rows_seen += batch.global_rows

    def _gradients(self, batch: TensorBatch) -> Tensor:
        """Fill the gradients, micro-batch by micro-batch; this rank's share of the loss, times the
        number of ranks.
        """
        while True:
            try:
                self.task.optimizer.zero_grad(set_to_none=True)
                if self.task.seed_generator:
                    # Modules of the user's own may draw from torch's generator: key it by the step.
                    number = (self.task.seed * 1_000_003 + self.step) * 4_099 + self.world.rank
                    torch.manual_seed(number)
                pieces = batch.pieces(self.micro_rows)
                shares = [self._backward(piece, piece is pieces[-1]) for piece in pieces]
                return shares[0] if len(shares) == 1 else torch.stack(shares).sum()
            except torch.OutOfMemoryError as error:
                self._shrink(len(batch.rows), error)

    def _backward(self, piece: TensorBatch, is_last: bool) -> Tensor:
        task = self.task
        weight = piece.global_weight or 1.0  # rows that all weigh nothing teach nothing
        with nullcontext() if is_last else unsynced(task.replica):
            loss = task.loss_sum(self._outputs(piece), piece.target, piece.weights)
            # Data parallelism averages gradients over ranks; the global mean needs their sum.
            loss = loss * (self.world.size / weight)
            scaled = loss * self.scale.scale if task.precision == "float16" else loss
            scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _outputs(self, piece: TensorBatch) -> Tensor:
        task = self.task
        task.randomness.set(self.step, piece.rows)
        dtype = AUTOCAST.get(task.precision)
        with nullcontext() if dtype is None else torch.autocast(self.device, dtype):
            outputs: Tensor = task.replica(piece.numbers, piece.categories)
        return outputs

    def _overflowed(self) -> bool:
        """Scale the gradients back, or tell that they are too large for float16.

        Raises:
            TrainError: no scale makes them finite.
        """
        norm = gradient_norm(self.parameters)
        overflowed = not math.isfinite(float(norm))
        for parameter in self.parameters if not overflowed else ():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.scale.scale)
        self.scale = self.scale.after(overflowed)
        if self.scale.is_exhausted:
            raise TrainError(gradient_trouble(self.task.model, self.step + 1))
        return overflowed

    def _shrink(self, num_rows: int, error: Exception) -> None:
        """Go on with half the micro-batch; on several ranks the others may wait already."""
        now = min(self.micro_rows or num_rows, num_rows)
        if not self.task.halves_micro_rows or self.world.size > 1 or now <= 1:
            raise TrainError(
                f"memory ran out at step {self.step + 1} with {now} rows at a time: {error}; write "
                f"`scale.micro_batch_size: {max(1, now // 2)}`, which changes nothing else"
            ) from error
        self.micro_rows = now // 2

    def _look(self, batch: TensorBatch, share: Tensor) -> None:
        """Where looking costs nothing, see at once whether all is finite: what is not in a
        gradient flows on to the first parameter's.

        Raises:
            TrainError: names the first module or gradient that is not.
        """
        if self.device != "cpu":
            return  # to look would be to wait for the GPU; `_log` does
        if not math.isfinite(float(share)):
            again = partial(self._outputs, batch)
            raise TrainError(forward_trouble(self.task.model, again, float(share), self.step + 1))
        gradient = self.parameters[0].grad
        scaled = self.task.precision == "float16"  # what overflows there is left out
        if gradient is not None and not scaled and not math.isfinite(float(local(gradient).sum())):
            raise TrainError(gradient_trouble(self.task.model, self.step + 1))

    def _log(self) -> Generator[LoopEvent, None, tuple[bool, bool]]:
        """Sum the pending losses over ranks; learn whether to stop or to checkpoint."""
        shares = torch.stack(self.pending).double().cpu().numpy() / self.world.size
        wishes = np.array([self.control.stop_requested(), self.control.checkpoint_due()], float)
        total = self.world.sum(np.concatenate([shares, wishes]))
        losses = total[:-2]
        first = self.step - len(losses)
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise TrainError(f"the training loss is {loss} at step {first + i + 1}; {REMEDY}")
        if self.task.clip_norm is None:
            self.gradient_norm = gradient_norm(self.parameters)
        if not math.isfinite(float(self.gradient_norm)):
            raise TrainError(gradient_trouble(self.task.model, self.step))
        seconds = time.perf_counter() - self.clock
        event = Stepped(
            step=self.step,
            num_steps=self.task.num_steps,
            epoch=self.step / self.task.steps_per_epoch,
            loss=float(losses.mean()),
            learning_rate=self.task.optimizer.param_groups[0]["lr"],
            rows_per_second=self.rows_seen / max(seconds, 1e-9),
            gradient_norm=float(self.gradient_norm),
            memory_bytes=peak_memory_bytes(self.device),
            tokens_per_row=self.task.tokens_per_row,
        )
        self.history.append({"time": time.time()} | event.row())
        yield event
        self.pending, self.rows_seen = [], 0
        self.clock = time.perf_counter()
        return bool(total[-2] > 0), bool(total[-1] > 0)

    def _validate(self) -> Generator[LoopEvent, None, bool]:
        metrics = self.task.evaluate()
        score = metrics[self.task.objective]
        before = self.progress
        self.progress = before.after(score, self.step, self.task.goal, self.task.plateau)
        improved = self.progress.best_step == self.step
        progress = self.step // self.task.steps_per_unit
        epoch = self.step / self.task.steps_per_epoch
        event = Validated(self.step, epoch, progress, metrics, score, improved)
        self.history.append({"time": time.time()} | event.row())
        yield event
        self.clock = time.perf_counter()
        return improved

    def _commit(self, best: bool) -> None:
        manifest, model = self._manifest(), self.task.model
        if self.shards is not None:
            self.saver.start(self.shards.saving(manifest, best, model, self.task.optimizer))
        elif self.world.leads or is_cut(model):
            files = self._files()
            if self.world.leads:
                self.saver.start(partial(self._save, manifest, files, best))
        self.control.checkpoint_done()
        self.clock = time.perf_counter()

    def _save(
        self, manifest: dict[str, Any], files: Mapping[str, dict[str, Tensor]], best: bool
    ) -> Committed:
        self.checkpoints.save(manifest, partial(_write, files), best)
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
            "history": list(self.history),
        } | dict(self.task.manifest)

    def _files(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds, whole: of a model that is cut, every rank must ask."""
        model = self.task.model
        return {WEIGHTS: cpu_state(model), OPTIMIZER: optimizer_tensors(self.task.optimizer, model)}


def _write(files: Mapping[str, dict[str, Tensor]], folder: Path) -> None:
    for name, tensors in files.items():
        save_file(tensors, str(folder / name))


def peak_memory_bytes(device: str) -> int:
    """The most that this process has held: on its GPU, else of the machine's memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state back."""
    if is_sharded(checkpoint):
        restore_shards(checkpoint, model, optimizer)
        return
    load_weights(model, checkpoint.folder / WEIGHTS)
    load_optimizer_tensors(optimizer, model, load_file(str(checkpoint.folder / OPTIMIZER)))
