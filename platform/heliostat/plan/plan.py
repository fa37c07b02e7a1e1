"""`plan_job`: one value that holds every sum of a job, or every reason why it cannot run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from heliostat.catalog.catalog import Catalog, combined, read_catalog
from heliostat.catalog.filter import filter_expression, filter_names
from heliostat.catalog.formats import DELIMITED
from heliostat.errors import DataError, PlanError, Problem, UnavailableError, UserError
from heliostat.plan.available import unavailable_parts
from heliostat.plan.checks import consistency_problems
from heliostat.plan.columns import Columns, prepared_digest, resolve_columns
from heliostat.plan.counts import MOST_TRAIN_SEQUENCES, SIDES, SplitCounts, planned_counts
from heliostat.plan.memory import MemoryNeed, format_bytes, machine_memory_bytes, memory_need
from heliostat.plan.size import NetworkSize, network_size
from heliostat.plan.space import Configuration, configurations, corners, rungs
from heliostat.plan.stream import DATA_CPUS, SAMPLE_ROWS
from heliostat.spec.data import DataSpec, Source, SourceSplit
from heliostat.spec.load import Job

MEMORY_SHARE = 0.8
EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class World:
    """How many ranks, and what each degree is: size = data x shard x tensor x pipeline."""

    size: int
    data: int
    shard: int
    tensor: int
    pipeline: int

    @property
    def readers(self) -> int:
        """How many ranks see different rows: tensor and pipeline peers see the same."""
        return self.data * self.shard


@dataclass(frozen=True)
class Batches:
    """The arithmetic of a network's steps. None in a count that the data must tell."""

    global_rows: int
    rows_per_rank: int
    steps_per_epoch: int | None
    steps: int | None


@dataclass(frozen=True)
class Plan:
    """Everything about a job that can be known before a worker starts."""

    job: Job
    catalog: Catalog
    columns: Columns
    counts: SplitCounts | None
    world: World
    batches: Batches | None
    memory: MemoryNeed
    size: NetworkSize | None
    trials: tuple[Configuration, ...]
    rungs: tuple[int, ...]
    notes: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def cpus(self) -> float:
        """CPUs that one training (or one trial) holds."""
        return self.world.size * self.job.spec.scale.resources.cpu

    @property
    def data_cpus(self) -> int:
        """CPUs that one training (or one trial) needs besides, to stream its data."""
        return DATA_CPUS if self.job.spec.data.ingest == "stream" else 0

    @property
    def gpus(self) -> float:
        """GPUs that one training (or one trial) holds."""
        return self.world.size * self.job.spec.scale.resources.gpu

    @property
    def num_trials(self) -> int:
        """How many trials the search makes; 0 without one. `trials` lists those known ahead."""
        tune = self.job.spec.tune
        is_chosen_later = tune is not None and tune.search == "tpe"
        return (tune.trials or 0) if tune and is_chosen_later else len(self.trials)

    @property
    def prepared_digest(self) -> str:
        """Which prepared copy the job reads."""
        return prepared_digest(self.catalog, self.columns, self.job.spec.data, self.job.spec.seed)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON value."""
        spec = self.job.spec
        return {
            "name": spec.name,
            "source": {
                "location": self.catalog.source,
                "files": len(self.catalog.files),
                "row_groups": len(self.catalog.row_groups),
                "rows": self.catalog.num_rows,
                "bytes": self.catalog.num_bytes,
                "digest": self.catalog.digest,
                "columns": {name: c.type for name, c in self.catalog.columns.items()},
            },
            "task": spec.data.task,
            "target": asdict(self.columns.target),
            "inputs": [asdict(column) for column in self.columns.inputs],
            "prepared_digest": self.prepared_digest,
            "rows": asdict(self.counts) if self.counts else None,
            "world": asdict(self.world),
            "batches": asdict(self.batches) if self.batches else None,
            "length": {spec.unit: spec.length},
            "objective": {"metric": spec.objective_metric, "goal": spec.objective_goal},
            "trials": self.num_trials,
            "rungs": list(self.rungs),
            "model": asdict(self.size) if self.size else None,
            "needs": {
                "cpus": self.cpus,
                "data_cpus": self.data_cpus,
                "gpus": self.gpus,
                "memory": asdict(self.memory),
            },
            "notes": list(self.notes),
            "unchecked": list(self.unchecked),
        }


def plan_job(job: Job) -> Plan:
    """Check all that can be checked and do every sum.

    Raises:
        PlanError: a sum does not work; with every such reason.
        UnavailableError: the job needs a part that is not available yet.
        DataError: the source is not what the job says.
    """
    if problems := consistency_problems(job):
        raise PlanError(problems)
    if problems := unavailable_parts(job):
        raise UnavailableError(problems)
    spec = job.spec
    catalog = _catalog(spec.data)
    _check_read(job, catalog)
    _check_filter(job, catalog)
    columns = resolve_columns(job, catalog)
    counts = planned_counts(spec.data, catalog, _may_drop_rows(job, columns))
    if problems := list(_count_problems(job, catalog, counts)):
        raise PlanError(problems)
    width = sum(column.width for column in columns.inputs)
    memory = memory_need(spec, counts.train if counts else catalog.num_rows, width)
    _check_memory(job, memory)
    return Plan(
        job=job,
        catalog=catalog,
        columns=columns,
        counts=counts,
        world=_world(job),
        batches=_batches(job, counts),
        memory=memory,
        size=network_size(spec, columns),
        trials=_trials(job, catalog, columns),
        rungs=_rungs(job),
        notes=(
            *_notes(catalog, columns, spec.data),
            *_stream_notes(spec.data),
            *_text_notes(spec.data),
        ),
        unchecked=_unchecked(counts),
    )


def with_counts(plan: Plan, counts: SplitCounts, notes: tuple[str, ...]) -> Plan:
    """The plan with the rows of each side counted, and what was noticed on the way."""
    return replace(
        plan,
        counts=counts,
        batches=_batches(plan.job, counts),
        notes=(*plan.notes, *notes),
        unchecked=_unchecked(counts),
    )


def _catalog(data: DataSpec) -> Catalog:
    if not isinstance(data.split, SourceSplit):
        return read_catalog(data.source, data.read)
    sources: dict[str, Source] = {
        "train": data.source, "validation": data.split.validation, "test": data.split.test,
    }  # fmt: skip
    return combined({side: read_catalog(source, data.read) for side, source in sources.items()})


def _check_read(job: Job, catalog: Catalog) -> None:
    if job.spec.data.read is not None and DELIMITED not in catalog.formats:
        formats = " and ".join(sorted(catalog.formats))
        what = f"is for delimited text; the source is {formats}, which says itself how to read it"
        raise PlanError(job.problem("data.read", what, "leave it out"))


def _check_filter(job: Job, catalog: Catalog) -> None:
    text = job.spec.data.filter
    if text is None:
        return
    try:
        if problems := catalog.problems_of(sorted(filter_names(text))):
            raise PlanError(problems)
        filter_expression(text, catalog.schema)
    except DataError as error:
        first = error.problems[0]
        raise PlanError(job.problem("data.filter", first.message, first.hint)) from None


def _may_drop_rows(job: Job, columns: Columns) -> bool:
    clean = job.spec.data.clean
    if job.spec.data.filter is not None:
        return True
    drops_inputs = any(column.missing == "drop" for column in columns.inputs)
    return clean.duplicates == "drop" or clean.missing_target == "drop" or drops_inputs


def _count_problems(job: Job, catalog: Catalog, counts: SplitCounts | None) -> Iterator[Problem]:
    if catalog.num_rows == 0:
        yield job.problem("data.source", "holds no row")
    elif counts is not None:
        for side in SIDES:
            wanted = side == "train" or getattr(job.spec.data.split, side) != 0
            if wanted and getattr(counts, side) == 0:
                share = "" if side == "train" else f" {getattr(job.spec.data.split, side)} of"
                yield job.problem(
                    "data.split", f"the {side} side is empty:{share} {catalog.num_rows} rows"
                )


def _check_memory(job: Job, need: MemoryNeed) -> None:
    given = job.spec.scale.resources.memory
    limit = given if given is not None else machine_memory_bytes()
    if limit is not None and need.num_bytes > limit * (1 if given else MEMORY_SHARE):
        where = (
            "`scale.resources.memory`" if given else f"{MEMORY_SHARE:.0%} of this machine's memory"
        )
        kind = job.spec.model.kind
        remedy = (
            "raise it, or take a model that reads batches: xgboost or mlp"
            if job.spec.model.family == "classic"
            else "raise it, or add workers"
        )
        raise PlanError(
            job.problem(
                "model.kind",
                f"`{kind}` holds {need.sum} = {format_bytes(need.num_bytes)} in one worker; "
                f"{where} is {format_bytes(limit * (1 if given else MEMORY_SHARE))}",
                remedy,
            )
        )


def _world(job: Job) -> World:
    scale = job.spec.scale
    degrees = scale.parallel
    product = degrees.product
    size = scale.num_workers
    return World(size, size // product, degrees.shard, degrees.tensor, degrees.pipeline)


def _batches(job: Job, counts: SplitCounts | None) -> Batches | None:
    spec = job.spec
    if spec.model.family != "network":
        return None
    rows = spec.train.batch_size
    known = counts is not None and spec.data.task != "language"  # whose texts are packed first
    per_epoch = -(-counts.train // rows) if counts is not None and known else None
    if spec.unit == "steps":
        steps: int | None = spec.length
    else:
        steps = per_epoch * spec.length if per_epoch is not None else None
    return Batches(rows, -(-rows // _world(job).readers), per_epoch, steps)


def _trials(job: Job, catalog: Catalog, columns: Columns) -> tuple[Configuration, ...]:
    tune = job.spec.tune
    if tune is None:
        return ()
    problems = []
    for key, value, corner_config in corners(tune.space):
        if key.split(".")[0] not in ("data", "model", "train", "seed"):
            problems.append(
                job.problem(f"tune.space.{key}", "only data, model, train and seed can be searched")
            )
            continue
        try:
            corner = job.replace(corner_config)
            problems += _corner_problems(job, corner, key, catalog, columns)
        except UserError as error:
            problems += [
                Problem(p.place, f"tune.space.{key} = {value}: {p.message}", p.hint)
                for p in error.problems
            ]
    if problems:
        raise PlanError(list(dict.fromkeys(problems)))
    if tune.search == "tpe":
        return ()  # each is chosen once others have told
    try:
        return tuple(configurations(tune, job.spec.seed))
    except ValueError as error:
        raise PlanError(job.problem("tune.space", str(error))) from None


def _rungs(job: Job) -> tuple[int, ...]:
    spec = job.spec
    if spec.tune is None:
        return ()
    return rungs(spec.tune.scheduler, spec.length, spec.train.validate_every)


def _corner_problems(
    job: Job, corner: Job, key: str, catalog: Catalog, columns: Columns
) -> list[Problem]:
    """What is wrong with a job at a corner of the space. All trials share one prepared copy."""
    if problems := consistency_problems(corner) or unavailable_parts(corner):
        return problems
    here, data, seed = resolve_columns(corner, catalog), corner.spec.data, corner.spec.seed
    if here.packed != columns.packed:
        what = "searching which columns to use is not available yet"
        return [corner.problem(f"tune.space.{key}", what)]
    if data.ingest == "stream" and key.split(".")[0] in ("data", "seed"):
        was = prepared_digest(catalog, columns, job.spec.data, job.spec.seed)
        if prepared_digest(catalog, here, data, seed) != was:
            what = "changes the split, and `ingest: stream` keeps the held-out rows of one"
            return [corner.problem(f"tune.space.{key}", what, "write `ingest: prepared`")]
    return []


def _notes(catalog: Catalog, columns: Columns, data: DataSpec) -> Iterator[str]:
    for name in sorted(catalog.index - {column.name for column in columns.packed}):
        yield f"`{name}` is the index of a table of pandas: no input unless it is named exactly"
    for name in sorted({column.name for column in columns.packed} & catalog.doubts.keys()):
        doubt = catalog.doubts[name]
        if doubt.remedy and not doubt.is_number:
            yield f"`{name}` is text; {doubt.what}: if so, {doubt.remedy}"
    used = {column.name for column in columns.packed} | filter_names(data.filter or "true")
    yield from (
        column.note for name, column in catalog.columns.items() if name in used and column.note
    )
    for column in columns.of_kind("category"):
        if DELIMITED in catalog.formats and catalog.columns[column.name].type == "double":
            yield f"`{column.name}` is read as numbers: `1.10` and `1.1` are one category"
    for column in columns.of_kind("number"):
        largest = catalog.largest.get(column.name, 0)
        if largest > EXACT_IN_FLOAT32 and not column.exact:
            yield (
                f"`{column.name}` holds {largest:,}; float32 keeps integers up to "
                f"{EXACT_IN_FLOAT32:,}. An identifier is a `category`; for a quantity write "
                "`{type: number, exact: true}`"
            )


def _stream_notes(data: DataSpec) -> Iterator[str]:
    if data.ingest == "stream":
        yield (
            f"transforms are fitted, and metrics of `train` computed, on about {SAMPLE_ROWS:,} "
            "training rows; the source is read once before the first epoch, and once in each"
        )


def _text_notes(data: DataSpec) -> Iterator[str]:
    if data.task == "language":
        yield (
            "a batch counts sequences, packed from the documents once they are read; metrics of "
            f"`train` are computed on {MOST_TRAIN_SEQUENCES:,} of them at most"
        )


def _unchecked(counts: SplitCounts | None) -> tuple[str, ...]:
    notes = []
    if counts is None:
        notes.append("rows of each side: the split goes by values")
    elif not counts.exact:
        notes.append("rows after cleaning: known once the data is read")
    address = os.environ.get("RAY_ADDRESS")
    where = f"the cluster at {address}" if address else "the cluster"
    notes.append(f"whether {where} has the CPUs, GPUs and memory; checked when it runs")
    return tuple(notes)
