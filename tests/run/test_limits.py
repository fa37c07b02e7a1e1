"""What ends a run in time: pure sums."""

from __future__ import annotations

import pytest

from heliostat.errors import PlanError
from heliostat.plan.plan import plan_job
from heliostat.run.limits import Deadline, deadline_of
from heliostat.spec.load import load_job
from heliostat.spec.scale import LimitsSpec


@pytest.mark.parametrize(
    ("limits", "gpus", "expected"),
    [
        ({}, 8.0, Deadline(None, "")),
        ({"hours": 2.0}, 8.0, Deadline(100 + 7200, "limits.hours")),
        # 40 GPU-hours on 8 GPUs are 5 hours, from when they are held.
        ({"gpu_hours": 40.0}, 8.0, Deadline(1000 + 5 * 3600, "limits.gpu_hours")),
        ({"hours": 12.0, "gpu_hours": 8.0}, 8.0, Deadline(1000 + 3600, "limits.gpu_hours")),
        ({"hours": 0.5, "gpu_hours": 8.0}, 8.0, Deadline(100 + 1800, "limits.hours")),
        ({"gpu_hours": 8.0}, 0.0, Deadline(None, "")),
    ],
)
def test_the_first_limit_counts(limits, gpus, expected):
    assert deadline_of(LimitsSpec(**limits), 100.0, 1000.0, gpus) == expected


def test_gpu_hours_of_a_job_without_gpus_are_refused(make_job):
    with pytest.raises(PlanError, match=r"`scale\.resources\.gpu` is 0"):
        plan_job(load_job(make_job(), settings=["limits.gpu_hours=3"]))
