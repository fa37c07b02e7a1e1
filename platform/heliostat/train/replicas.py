"""Ray Train's elastic scaling, in whole replicas of a model that several workers hold together."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig


class WholeReplicas(ElasticScalingPolicy):  # type: ignore[misc]
    """As many workers as the cluster has room for, rounded down to a multiple of `unit`."""

    def __init__(self, scaling_config: ScalingConfig, unit: int) -> None:
        super().__init__(scaling_config)
        self.unit = unit

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible: int = super()._count_possible_workers(reserved_resources)
        return possible - possible % self.unit
