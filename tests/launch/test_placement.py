"""Which nodes of a running Ray cluster hold a job's workers, and what that costs at most."""

from __future__ import annotations

import pytest

from heliostat.errors import UserError
from heliostat.launch.placement import Node, spread
from heliostat.spec.load import load_job

NODES = [Node("head", 0, 0, 10**10), Node("large", 4, 0, 10**10), Node("small", 2, 0, 10**10)]
GRID = "tune={search: grid, concurrency: 3, space: {seed: [1, 2, 3, 4]}}"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([], "1 worker in all = 1 on large; at most 0.50 an hour"),
        (["scale.workers=5"], "5 workers in all = 4 on large + 1 on small; at most 2.50 an hour"),
        (["scale.workers={min: 4, max: 9}"], "6 workers in all = 4 on large + 2 on small; at most 3.00 an hour"),
        (["data.split={method: random, folds: 4}"], "1 worker a fold = 1 on large; 4 at once; at most 2.00 an hour"),
        ([GRID, "limits.hours=2"], "1 worker a trial = 1 on large; 3 at once; at most 1.50 an hour, 3.00 in `limits.hours`"),
    ],
)  # fmt: skip
def test_workers_fill_the_largest_nodes_first(make_job, settings, sentence):
    assert spread(load_job(make_job(), settings=settings).spec, NODES, 0.5) == sentence


def test_too_little_room_is_a_sum(make_job):
    scale = "scale={workers: 3, resources: {memory: 6Gi}}"
    with pytest.raises(UserError, match=r"hold 2 of 3 .*large: 4 CPU / 1, 9\.3 GiB / 6\.0 GiB"):
        spread(load_job(make_job(), settings=[scale]).spec, NODES, 0.0)
