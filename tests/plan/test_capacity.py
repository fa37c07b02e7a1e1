"""Whether workers find room: sums, and parts where sums alone would fit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.plan import capacity
from heliostat.plan.capacity import Node, capacity_problems
from heliostat.plan.plan import plan_job
from heliostat.spec.load import load_job

GIB = 2**30


@pytest.fixture
def plan_of(make_job):
    def plan(*settings: str):
        return plan_job(load_job(make_job(), settings=settings))

    return plan


@pytest.mark.parametrize(
    ("settings", "nodes", "sentence"),
    [
        (("scale.workers=64",), [Node(2, 0, None)], "64 workers x 1 = 64 CPUs, the house has 2"),
        (("scale.workers={min: 3, max: 9}",), [Node(2, 0, None)], "3 workers x 1 = 3 CPUs"),
        (("scale.resources.gpu=3",), [Node(8, 1, None), Node(8, 1, None)],
         "scale.resources.gpu: 1 worker x 3 = 3 GPUs, the house has 2"),
        (("scale.resources.gpu=3",), [Node(8, None, None)], ""),
        (("scale.workers=2", "scale.resources.memory=3Gi"), [Node(8, 0, 4 * GIB)],
         "2 workers x 3.0 GiB = 6.0 GiB of memory, the house has 4.0 GiB"),
        (("scale.workers=2", "scale.resources.cpu=3"), [Node(4, 0, None), Node(2, 0, None)],
         "2 workers of 3 CPUs each, the house has nodes that hold 1 of them"),
        (("scale.workers=2", "scale.resources.cpu=3"), [Node(6, 0, None)], ""),
    ],
)  # fmt: skip
def test_what_lacks_is_told_with_its_numbers(plan_of, settings, nodes, sentence):
    told = "; ".join(map(str, capacity_problems(plan_of(*settings), "the house", nodes)))
    assert sentence in told if sentence else told == ""


@given(st.floats(0.05, 4), st.floats(0, 3), st.integers(0, 12))
def test_a_node_holds_as_many_as_fit(cpus, gpus, num):
    node = Node(cpus * num, gpus * num, None)
    assert node.holds(cpus, gpus, 5 * GIB) == num
    assert Node(cpus * num, None, None).holds(cpus, gpus, 0) == num


def test_plan_tells_what_this_machine_lacks(heliostat, make_job, monkeypatch):
    from click.testing import CliRunner

    from heliostat.cli.main import cli

    monkeypatch.setattr(capacity, "this_machine", lambda: Node(2, 0, 8 * GIB))
    words = ["plan", str(make_job()), "--set", "scale.workers=64"]
    told = CliRunner().invoke(cli, words)
    assert told.exit_code == 0
    assert "machine   64 workers x 1 = 64 CPUs, this machine has 2" in told.output
    value = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert value["machine"] == ["64 workers x 1 = 64 CPUs, this machine has 2"]
    assert "machine" not in CliRunner().invoke(cli, words[:2]).output
