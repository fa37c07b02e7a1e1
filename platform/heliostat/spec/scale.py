"""`scale` and `limits`: how a job runs, never what it learns. In no identity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from heliostat.spec.base import Bytes, Spec

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class ElasticWorkers(Spec):
    """Between `min` and `max` ranks, as the cluster allows: fewer when a node is lost, more when
    there is room again.
    """

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ordered(self) -> ElasticWorkers:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is more than max = {self.max}")
        return self


class ResourcesSpec(Spec):
    """What one worker holds."""

    cpu: Positive = 1.0
    gpu: Annotated[float, Field(ge=0)] = 0.0
    memory: Bytes | None = None


class ParallelSpec(Spec):
    """Model-parallel degrees; data = workers / their product."""

    shard: Count = 1
    tensor: Count = 1
    pipeline: Count = 1

    @property
    def peers(self) -> int:
        """How many ranks see the same rows."""
        return self.tensor * self.pipeline

    @property
    def product(self) -> int:
        """How many ranks hold one model between them."""
        return self.shard * self.peers


class CheckpointSpec(Spec):
    """When to commit a checkpoint, and how many to keep besides the best."""

    every_steps: Count | None = None
    every_minutes: Positive = 15.0
    keep: Count = 2


class ScaleSpec(Spec):
    """Workers and what each one holds. With `activation_checkpointing` a network's layers are
    computed once more in the backward pass instead of being remembered.
    """

    workers: Count | ElasticWorkers = 1
    resources: ResourcesSpec = ResourcesSpec()
    parallel: ParallelSpec = ParallelSpec()
    micro_batch_size: Literal["auto"] | Count = "auto"
    activation_checkpointing: bool = False
    checkpoint: CheckpointSpec = CheckpointSpec()

    @property
    def num_workers(self) -> int:
        """The most ranks there will be."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def min_workers(self) -> int:
        """The fewest ranks that training goes on with."""
        return self.workers if isinstance(self.workers, int) else self.workers.min


class LimitsSpec(Spec):
    """Nothing runs, waits or fails without an end."""

    hours: Positive | None = None
    gpu_hours: Positive | None = None
    start_minutes: Positive = 20.0
    stall_minutes: Positive = 10.0
    failures: Annotated[int, Field(ge=0)] = 3
    failed_trials: Annotated[float, Field(ge=0, le=1)] = 0.02
