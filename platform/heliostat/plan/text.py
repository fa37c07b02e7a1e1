"""A plan in words: the same block in `heliostat plan`, at the head of a run, and in plan.txt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from heliostat.plan.fuse import fuse_key, ridge_key, why_not_fused
from heliostat.plan.inputs import InputKind
from heliostat.plan.memory import format_bytes
from heliostat.plan.pipeline import MicroBatches
from heliostat.plan.plan import Plan
from heliostat.plan.size import NetworkSize
from heliostat.spec.tune import Scheduler

KEY_WIDTH = 10

MOST_LOOKED_AT = 2_000


def plan_text(plan: Plan) -> str:
    """Lines of `key  value`; products are written out."""
    return "\n".join(f"{key:<{KEY_WIDTH}}{value}" for key, value in _lines(plan)) + "\n"


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    spec = plan.job.spec
    yield (
        "job",
        f"{spec.name}: {spec.data.task}, target `{spec.data.target}`, model {spec.model.kind}",
    )
    yield "data", _source(plan)
    yield "columns", _columns(plan)
    yield "split", _split(plan)
    if plan.size is not None:
        yield "model", _size(plan, plan.size)
    yield "world", _world(plan)
    yield from _length(plan)
    if spec.tune is not None:
        yield from _sweep(plan)
    yield "objective", f"{spec.objective_metric} on validation, {_goal(plan)}"
    yield "needs", _needs(plan)
    yield "memory", f"at least {format_bytes(plan.memory.num_bytes)} a worker = {plan.memory.sum}"
    for note in plan.notes:
        yield "note", note
    for note in plan.unchecked:
        yield "unchecked", note


def _source(plan: Plan) -> str:
    catalog = plan.catalog
    return (
        f"{len(catalog.files)} files, {len(catalog.row_groups)} row groups, "
        f"{catalog.num_rows:,} rows, {format_bytes(catalog.num_bytes)}; "
        f"digest {catalog.digest[:12]}"
    )


def _size(plan: Plan, size: NetworkSize) -> str:
    train, degrees = plan.job.spec.train, plan.world
    bound = "" if size.exact else "at least "
    cuts = degrees.shard * degrees.tensor * degrees.pipeline
    state = format_bytes(size.state_bytes(train.optimizer.name) / cuts)
    share = f" a worker, cut over {cuts}" if cuts > 1 else ""
    flops = size.flops_per_row * train.batch_size
    return (
        f"{bound}{size.parameters:,} parameters, {state} with gradients and optimizer{share}; "
        f"{flops / 1e9:,.3g} GFLOP a step"
    )


def _columns(plan: Plan) -> str:
    names = [column.name for column in plan.columns.inputs]
    shown = ", ".join(names[:12]) + (f", and {len(names) - 12} more" if len(names) > 12 else "")
    plurals = {"number": "numbers", "category": "categories", "time": "times",
               "vector": "vectors", "text": "texts",
               "tokens": "texts as tokens", "custom": "of your own"}  # fmt: skip
    counts = {kind: len(plan.columns.of_kind(kind)) for kind in get_args(InputKind)}
    sums = [f"{n} {kind if n == 1 else plurals[kind]}" for kind, n in counts.items() if n]
    if not names:
        return "no inputs: a text that is learned by itself"
    return f"{len(names)} inputs = {' + '.join(sums)}: {shown}"


def _split(plan: Plan) -> str:
    split, counts = plan.job.spec.data.split, plan.counts
    if counts is None:
        return f"{split.method}: by values"
    folds = plan.job.spec.data.num_folds
    if folds is not None:
        at_once = ", as many at once as find room" if plan.job.spec.most_folds_at_once > 1 else ""
        return (
            f"{split.method}: {folds} folds{at_once}, about {counts.train:,} train + "
            f"{counts.validation:,} validation each; {counts.test:,} test"
        )
    bound = "" if counts.exact else ", each at most, before cleaning"
    return (
        f"{split.method}: {counts.train:,} train + {counts.validation:,} validation "
        f"+ {counts.test:,} test{bound}"
    )


def _world(plan: Plan) -> str:
    world = plan.world
    noun = "worker" if world.size == 1 else "workers"
    fewest = plan.job.spec.scale.min_workers
    elastic = f"{fewest} to " if fewest < world.size else ""
    return (
        f"{elastic}{world.size} {noun} = {world.data} data x {world.shard} shard "
        f"x {world.tensor} tensor x {world.pipeline} pipeline"
    )


def _length(plan: Plan) -> Iterator[tuple[str, str]]:
    spec, batches = plan.job.spec, plan.batches
    if batches is None:
        if spec.unit != "fits":
            yield (
                "length",
                f"{spec.length} {spec.unit}, validated every {spec.train.validate_every}",
            )
        return
    noun = "sequences" if spec.data.task == "language" else "rows"
    yield (
        "batch",
        f"{batches.global_rows:,} {noun} = {_readers(plan)} x {batches.rows_per_rank:,} {noun}",
    )
    if (stages := plan.world.pipeline) > 1:
        micro = MicroBatches.of(batches.rows_per_rank, spec.scale.micro_batch_size, stages)
        yield (
            "pipeline",
            f"{stages} stages, {micro.count} micro-batches of {micro.rows:,} {noun}: "
            f"each waits {micro.waiting(stages):.0%} of a step",
        )
    if batches.steps is None or batches.steps_per_epoch is None:
        yield "steps", f"{spec.length} {spec.unit}"
    elif spec.unit == "steps":
        yield "steps", f"{batches.steps:,}; an epoch has {batches.steps_per_epoch:,}"
    else:
        yield "steps", f"{batches.steps:,} = {spec.length} epochs x {batches.steps_per_epoch:,}"


def _readers(plan: Plan) -> str:
    world = plan.world
    return f"{world.data} data" + (f" x {world.shard} shard" if world.shard > 1 else "")


def _sweep(plan: Plan) -> Iterator[tuple[str, str]]:
    tune = plan.job.spec.tune
    assert tune is not None
    scheduler = "no scheduler" if not plan.rungs else f"{_scheduler(tune.scheduler)}, rungs "
    rungs = ", ".join(str(rung) for rung in plan.rungs)
    keys = ", ".join(tune.space)
    yield "sweep", f"{plan.num_trials} trials by {tune.search} over {keys}; {scheduler}{rungs}"
    if tune.trials is not None and plan.num_trials < tune.trials:
        yield "", f"the space holds only {plan.num_trials} different points of {tune.trials} asked"
    yield from _together(plan)


def _together(plan: Plan) -> Iterator[tuple[str, str]]:
    """Which trials are trained together, as far as can be told before a step is measured."""
    spec = plan.job.spec
    if ridge_key(spec) is not None:
        yield "", "regressions that differ in `alpha` alone are solved from one pass over the rows"
    if spec.tune is None or not spec.tune.fuse:
        return
    reason = why_not_fused(spec)
    if reason is not None:
        yield "fuse", f"trained one by one: {reason}"
        return
    keys = [fuse_key(plan.job.replace(config).spec) for config in plan.trials[:MOST_LOOKED_AT]]
    shapes = Counter(key for key in keys if key is not None)
    sizes = " + ".join(str(count) for count in shapes.values()) or "those of one shape"
    yield "fuse", f"{sizes} trials stacked; how many at once is measured before the first begins"


def _scheduler(scheduler: Scheduler) -> str:
    return f"{scheduler.name} ({getattr(scheduler, 'mode', '')})"


def _goal(plan: Plan) -> str:
    return "higher is better" if plan.job.spec.objective_goal == "max" else "lower is better"


def _needs(plan: Plan) -> str:
    resources = plan.job.spec.scale.resources
    noun = _held_by(plan)
    workers = f"{plan.world.size} worker{'' if plan.world.size == 1 else 's'}"
    text = f"{_counted(plan.cpus, 'CPU')} {noun} = {workers} x {resources.cpu:g}"
    if plan.data_cpus:
        text += f", and {_counted(plan.data_cpus, 'CPU')} more to stream the data"
    if resources.gpu:
        text += f"; {_counted(plan.gpus, 'GPU')} = {workers} x {resources.gpu:g}"
    return text


def _held_by(plan: Plan) -> str:
    if plan.num_trials:
        return "a trial"
    return "a fold" if plan.job.spec.most_folds_at_once > 1 else "in all"


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
