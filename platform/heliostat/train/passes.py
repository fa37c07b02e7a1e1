"""How the gradients of a batch come about: micro-batch after micro-batch, or through a pipeline."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from heliostat.errors import TrainError
from heliostat.models.token_loss import TokenLoss
from heliostat.parallel.apply import is_cut, unsynced
from heliostat.parallel.pipeline import Stage, stage_of
from heliostat.parallel.world import SoloWorld, World
from heliostat.plan.pipeline import MicroBatches
from heliostat.train.task import Fit, TensorBatch
from heliostat.train.trouble import REMEDY, forward_trouble

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Passes(Protocol):
    """Forward and backward passes over a batch."""

    def gradients(self, batch: TensorBatch, step: int, scale: float) -> Tensor:
        """Add to the gradients those of the batch's mean loss, times `scale`. This rank's share of
        the loss, times the number of ranks that see different rows.

        Raises:
            TrainError: memory ran out.
        """

    def trouble(self, batch: TensorBatch, step: int, share: float) -> str:
        """Why a share of the loss is not finite. Of a model that is cut, every rank must ask."""


def passes_of(task: Fit, world: World) -> Passes:
    """The passes that a model needs as it is cut."""
    stage = stage_of(task.model)
    return OneByOne(task, world) if stage is None else Pipelined(task, world, stage)


class OneByOne:
    """One micro-batch after another, each forward and backward."""

    def __init__(self, task: Fit, world: World) -> None:
        self.task, self.world = task, world
        self.micro_rows = task.micro_rows
        self.device = next(task.model.parameters()).device.type
        self.is_one_of_several = world.size > 1 or is_cut(task.model)

    def gradients(self, batch: TensorBatch, step: int, scale: float) -> Tensor:
        """See `Passes`."""
        while True:
            try:
                if self.task.seed_generator:
                    seed_generator(self.task, step, self.world)
                if self.micro_rows is None:
                    return self._backward(batch, step, scale)
                *pieces, last = batch.pieces(self.micro_rows)
                with unsynced(self.task.replica) if pieces else nullcontext():
                    shares = [self._backward(piece, step, scale) for piece in pieces]
                return torch.stack([*shares, self._backward(last, step, scale)]).sum()
            except torch.OutOfMemoryError as error:
                self._shrink(len(batch.rows), step, error)
                self.task.optimizer.zero_grad()

    def trouble(self, batch: TensorBatch, step: int, share: float) -> str:
        """See `Passes`."""
        again = partial(self._outputs, batch, step)
        asking = self.world if is_cut(self.task.model) else SoloWorld()
        return forward_trouble(self.task.model, again, share, step + 1, asking)

    def _backward(self, piece: TensorBatch, step: int, scale: float) -> Tensor:
        loss = self._loss(piece, step, scale)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach() if scale == 1 else loss.detach() / scale

    def _loss(self, piece: TensorBatch, step: int, scale: float) -> Tensor:
        task = self.task
        if not getattr(task.model, "takes_loss", False):
            return mean_loss(task, self.world, self._outputs(piece, step), piece, scale)
        task.randomness.set(step, piece.rows)
        weights = mean_weights(self.world, piece, scale)
        with autocast(task, self.device):
            loss: Tensor = task.replica(
                piece.numbers, piece.categories, TokenLoss(task.loss_sum, piece.target, weights)
            )
        return loss

    def _outputs(self, piece: TensorBatch, step: int) -> Tensor:
        self.task.randomness.set(step, piece.rows)
        with autocast(self.task, self.device):
            outputs: Tensor = self.task.replica(piece.numbers, piece.categories)
        return outputs

    def _shrink(self, num_rows: int, step: int, error: Exception) -> None:
        """Go on with half the micro-batch; of several processes the others may wait already."""
        now = min(self.micro_rows or num_rows, num_rows)
        if not self.task.halves_micro_rows or self.is_one_of_several or now <= 1:
            raise TrainError(_out_of_memory(step, now, error)) from error
        self.micro_rows = now // 2


class Pipelined:
    """Micro-batches through the stages of a pipeline: one forward, one backward (1F1B; Narayanan
    et al., 2019). All are full, as the stages' buffers are: what lacks is filled with rows that
    weigh nothing.
    """

    def __init__(self, task: Fit, world: World, stage: Stage) -> None:
        # Half a second of import; few trainings need it.
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B

        self.task, self.world, self.stage = task, world, stage
        self.device = next(task.model.parameters()).device
        micro = MicroBatches.of(task.most_rows, task.micro_rows or "auto", stage.count)
        self.micro_rows, self.num_micro = micro.rows, micro.count
        self.pieces: list[TensorBatch] = []
        self.scale = 1.0
        here = PipelineStage(task.model, stage.index, stage.count, self.device, group=stage.group)
        self.schedule = Schedule1F1B(here, self.num_micro, self._loss, scale_grads=False)

    def gradients(self, batch: TensorBatch, step: int, scale: float) -> Tensor:
        """See `Passes`."""
        if self.task.seed_generator:
            seed_generator(self.task, step, self.world)
        full = batch.filled(self.micro_rows * self.num_micro)
        self.pieces, self.scale = full.pieces(self.micro_rows), scale
        self.stage.begin = partial(self.task.randomness.set, step)
        losses: list[Tensor] = []
        try:
            with autocast(self.task, self.device.type):
                self.schedule.step(
                    *([full.numbers] if self.stage.is_first else []),
                    target=torch.arange(self.num_micro) if self.stage.is_last else None,
                    losses=losses if self.stage.is_last else None,
                    return_outputs=False,
                    categories=full.categories,
                    rows=full.rows,
                )
        except torch.OutOfMemoryError as error:
            raise TrainError(_out_of_memory(step, self.micro_rows, error)) from error
        # The mean over peers is what counts, and the other stages know no loss.
        total = torch.stack(losses).sum() if losses else torch.zeros((), device=self.device)
        return total.detach() * (self.stage.count / scale)

    def trouble(self, batch: TensorBatch, step: int, share: float) -> str:
        """See `Passes`."""
        return f"the training loss is {share} at step {step + 1}. {REMEDY}"

    def _loss(self, outputs: Tensor, number: Tensor) -> Tensor:
        piece = self.pieces[int(number)]
        return mean_loss(self.task, self.world, outputs, piece, self.scale)


def mean_loss(task: Fit, world: World, outputs: Tensor, piece: TensorBatch, scale: float) -> Tensor:
    """The piece's part of the global batch's mean loss, times `scale` and the number of ranks:
    parallelism averages gradients over them, and the global mean needs their sum.
    """
    return task.loss_sum(outputs, piece.target, mean_weights(world, piece, scale))


def mean_weights(world: World, piece: TensorBatch, scale: float) -> Tensor:
    """What the piece's losses are multiplied by in the mean."""
    weight = piece.global_weight or 1.0  # rows that all weigh nothing teach nothing
    return piece.weights * (world.size * scale / weight)


def autocast(task: Fit, device: str) -> AbstractContextManager[object]:
    """What a forward pass computes in."""
    dtype = AUTOCAST.get(task.precision)
    return nullcontext() if dtype is None else torch.autocast(device, dtype)


def seed_generator(task: Fit, step: int, world: World) -> None:
    """Modules of the user's own may draw from torch's generator: key it by the step."""
    torch.manual_seed((task.seed * 1_000_003 + step) * 4_099 + world.rank)


def _out_of_memory(step: int, num_rows: int, error: Exception) -> str:
    return (
        f"memory ran out at step {step + 1} with {num_rows} rows at a time: {error}; write "
        f"`scale.micro_batch_size: {max(1, num_rows // 2)}`, which changes nothing else"
    )
