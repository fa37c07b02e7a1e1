"""Train a network: the loop's pieces from a job's data and spec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heliostat.data.reader import Batches, EpochBatches
from heliostat.data.sieve import Sieve
from heliostat.models.huggingface import check_config
from heliostat.models.network import NetworkPredictor, Weights, build_network, load_weights
from heliostat.models.randomness import Randomness
from heliostat.parallel.apply import Means, parallelized
from heliostat.parallel.device import training_device
from heliostat.parallel.torch_device import torch_device
from heliostat.parallel.world import Degrees, World
from heliostat.spec.model import GptModel, NetworkModel
from heliostat.train.allocator import keep_freed_memory
from heliostat.train.artifact import save_model
from heliostat.train.assignment import Assignment, OpenData
from heliostat.train.checkpoint import Checkpoints
from heliostat.train.control import Control
from heliostat.train.events import Event, Finished, Noted, Stopped
from heliostat.train.loop import WEIGHTS, fit
from heliostat.train.losses import loss_sum
from heliostat.train.optim import build_optimizer, check_patterns, rate_factor
from heliostat.train.scoring import final_metrics, validation_metrics
from heliostat.train.shards import is_sharded, load_sharded_weights
from heliostat.train.task import Fit, TensorBatch
from heliostat.train.transfer import begin_from, freeze
from heliostat.train.utilization import utilization_of

LOGGED_STEPS = 200


def train_network(
    assignment: Assignment, data: OpenData, world: World, checkpoints: Checkpoints, control: Control
) -> Iterator[Event]:
    """Train, keep the best weights if the job stops early, score, and publish the model."""
    spec = assignment.spec
    assert isinstance(spec.model, NetworkModel)
    keep_freed_memory()
    torch.set_num_threads(max(1, int(spec.scale.resources.cpu)))
    device = device_of(assignment)
    torch.manual_seed(spec.seed)
    randomness = Randomness(spec.seed)
    if spec.train.compile:
        randomness.stay_outside()
    code = assignment.code_folder
    model = build_network(spec.model, data.shape, randomness, code)
    if spec.model.init_from is not None:
        if isinstance(spec.model, GptModel):
            check_config(spec.model.init_from, spec.model, data.shape)
        yield Noted(begin_from(model, spec.model.init_from))
    freeze(model, spec.model.freeze)
    check_patterns(spec.train.optimizer, model)
    parallel = spec.scale.parallel
    degrees = Degrees(parallel.shard, parallel.tensor, parallel.pipeline)
    means = Means(spec.train.compile, spec.scale.activation_checkpointing)
    if degrees.pipeline > 1:  # other rows pass a layer before it is computed again
        means = replace(means, contexts=randomness.remembered)
    predictor = NetworkPredictor(model, data.shape, device)
    replica = parallelized(model.train(), world, degrees, means, device)
    task = _task(assignment, data, world, _Learner(model, replica, predictor), randomness)
    step = 0
    for event in fit(task, world, checkpoints, control):
        yield event
        step = event.step
        if isinstance(event, Stopped):
            return
    best_step = step
    if spec.train.early_stopping is not None and (best := checkpoints.best()) is not None:
        if is_sharded(best):
            load_sharded_weights(model, best.folder)
        else:
            load_weights(model, best.folder / WEIGHTS)
        best_step = best.step
    weights = Weights.of(model, keep=world.leads)
    if world.leads:
        save_model(assignment, data, weights)
    sides = ("train", "validation", "test") if assignment.final else ("validation",)
    metrics, details = final_metrics(spec, data, predictor, world, sides)
    score = metrics.get("validation", {}).get(spec.objective_metric, float("nan"))
    best_progress = best_step // task.steps_per_unit
    yield Finished(step, metrics, score, details, progress=best_progress)


@dataclass(frozen=True)
class _Learner:
    """A model in training, what training calls, and what scores."""

    model: nn.Module
    replica: nn.Module
    predictor: NetworkPredictor


def _task(
    assignment: Assignment,
    data: OpenData,
    world: World,
    learner: _Learner,
    randomness: Randomness,
) -> Fit:
    spec = assignment.spec
    model = learner.model
    per_epoch = -(-data.num_examples // spec.train.batch_size)
    steps_per_unit = per_epoch if spec.unit == "epochs" else 1
    num_steps = spec.length * steps_per_unit
    batches = _batches(assignment, data, world, num_steps)
    early, schedule = spec.train.early_stopping, spec.train.schedule
    return Fit(
        model=model,
        replica=learner.replica,
        optimizer=build_optimizer(spec.train.optimizer, model),
        loss_sum=loss_sum(spec.train.loss, spec.data.task),
        batches=partial(tensor_batches, batches, learner.predictor.device),
        rate=lambda step, progress: rate_factor(schedule, step, num_steps, progress.num_drops),
        plateau=schedule.patience,
        evaluate=lambda: validation_metrics(spec, data, learner.predictor, world),
        objective=spec.objective_metric,
        tie_metric=spec.tie_metric,
        goal=spec.objective_goal,
        patience=early.patience if early else None,
        num_steps=num_steps,
        steps_per_epoch=per_epoch,
        steps_per_unit=steps_per_unit,
        unit=spec.unit,
        validate_every=spec.train.validate_every * steps_per_unit,
        log_every=max(1, num_steps // LOGGED_STEPS),
        checkpoint_every=spec.scale.checkpoint.every_steps,
        randomness=randomness,
        seed=spec.seed,
        clip_norm=spec.train.clip_norm,
        micro_rows=None if spec.scale.micro_batch_size == "auto" else spec.scale.micro_batch_size,
        halves_micro_rows=spec.scale.micro_batch_size == "auto",
        most_rows=-(-spec.train.batch_size // world.size),
        precision=spec.train.precision,
        tokens_per_row=data.sequences["train"].max_tokens if data.sequences else None,
        validates=len(data.rows("validation")) > 0,
        seed_generator=spec.model.kind == "custom",
        utilization=utilization_of(
            spec,
            assignment.columns,
            learner.predictor.device,
            world.size * spec.scale.parallel.peers,
        ),
        pause_step=None if assignment.until is None else assignment.until * steps_per_unit,
    )


def _batches(assignment: Assignment, data: OpenData, world: World, num_steps: int) -> Batches:
    spec, facts = assignment.spec, data.prepared.stream
    if facts is None:
        return epoch_batches(assignment, data, world)
    from heliostat.data.stream import StreamBatches
    from heliostat.data.windows import WindowOrder, WindowReader

    sieve = Sieve(assignment.columns, spec.data, spec.seed, facts.bounds)
    order = WindowOrder(facts, spec.seed)
    reader = WindowReader(order, sieve, data.encoder, spec.train.batch_size, world.size)
    return StreamBatches(reader, world, num_steps, spec.limits.start_minutes * 60)


def epoch_batches(assignment: Assignment, data: OpenData, world: World) -> EpochBatches:
    """The batches of a prepared copy, in an order of each epoch's own."""
    seed, size = assignment.spec.seed, assignment.spec.train.batch_size
    if texts := data.sequences.get("train"):
        rows = np.arange(texts.num_sequences)
        return EpochBatches(texts, rows, size, seed, world.rank, world.size)
    return EpochBatches(data.reader, data.rows("train"), size, seed, world.rank, world.size)


def tensor_batches(
    batches: Batches, device: torch.device | str, first: int
) -> Iterator[TensorBatch]:
    """The batches on a device, from number `first` on."""
    for batch in batches(first):
        yield TensorBatch(
            _tensor(batch.own.inputs.numbers, device),
            _tensor(batch.own.inputs.categories, device).long(),
            _tensor(batch.own.target, device),
            _tensor(batch.own.rows, device),
            _tensor(batch.own.weights, device),
            batch.global_rows,
            batch.global_weight,
        )


def _tensor(values: npt.NDArray[Any], device: torch.device | str) -> Tensor:
    """`values` on the device. To a GPU by way of pinned memory, from which it fetches them itself
    while Python goes on.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def device_of(assignment: Assignment) -> torch.device:
    """Where a model trains. Several trainings on one GPU each keep to their share of its memory,
    which Ray counts but does not guard.

    Raises:
        UserError: the job asks for a GPU, and torch sees none.
    """
    gpus = assignment.spec.scale.resources.gpu
    device = torch_device(training_device(gpus))
    if device.type == "cuda":
        share = 1.0 if assignment.is_alone else min(1.0, gpus)
        torch.cuda.set_per_process_memory_fraction(share)
    return device
