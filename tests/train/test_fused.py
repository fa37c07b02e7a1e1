"""Fused equals separate: a stacked model trains each of its trials as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from heliostat.models.stacked import stacked
from heliostat.parallel.world import SoloWorld
from heliostat.plan.fuse import fuse_key
from heliostat.spec.train import OptimizerSpec
from heliostat.storage.lease import Lease
from heliostat.train.assignment import Assignment, RunPlace, open_data
from heliostat.train.control import NoControl
from heliostat.train.events import Failed, Finished, Stopped, Validated
from heliostat.train.fused import train_fused
from heliostat.train.job import train_events
from heliostat.train.stacked_optim import StackedOptimizer
from tests.conftest import job_text
from tests.data.packing import plan_of, prepare_here

JOB = {
    "model": "model: {kind: mlp, hidden: [16, 16], dropout: 0.2}",
    "train": "train: {epochs: 4, batch_size: 96, clip_norm: 0.5, early_stopping: {patience: 1}}",
}
TRIALS = [
    {"train.optimizer.learning_rate": 0.003},
    {"train.optimizer.learning_rate": 0.01, "train.schedule": {"name": "cosine"}},
    {"train.optimizer.weight_decay": 0.5, "model.dropout": 0.5, "train.clip_norm": None},
    {"train.schedule": {"name": "plateau", "patience": 1}, "train.early_stopping": None},
    {"train.optimizer.learning_rate": 0.02, "train.early_stopping": {"patience": 2}},
]


@pytest.fixture
def assigned(tmp_path, table, monkeypatch):
    """Assignments of trials, each with a place of its own."""

    def assign(name: str, trials=TRIALS, until: int | None = None, **parts: str):
        job = tmp_path / "job.yaml"
        job.write_text(job_text(table, **{**JOB, **parts}))
        plan = plan_of(job)
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        lease = Lease.acquire(tmp_path / f"lease-{name}")
        return [
            Assignment(
                job=plan.job.replace(trial).spec.model_dump(mode="json", by_alias=True),
                columns=plan.columns, prepared=str(prepared.folder), data_digest="d", code=None,
                code_digest="c", model_folder=str(tmp_path / f"{name}-{index}"), final=False,
                until=until,
                place=RunPlace(
                    str(tmp_path / f"{name}-{index}-checkpoints"), str(tmp_path / f"lease-{name}"), lease.token, False
                ),
            )
            for index, trial in enumerate(trials)
        ]  # fmt: skip

    return assign


def alone(assignments):
    return [list(train_events(a, SoloWorld(), NoControl())) for a in assignments]


def together(assignments):
    events: list[list] = [[] for _ in assignments]
    for place, event in train_fused(assignments, NoControl()):
        events[place].append(event)
    return events


def assert_equal(fused, separate) -> None:
    """The same validations and the same end, with the same weights."""
    for ours, theirs in zip(fused, separate, strict=True):
        for kind in (Validated, Finished):
            some, others = ([e for e in events if isinstance(e, kind)] for events in (ours, theirs))
            assert [e.step for e in some] == [e.step for e in others]
            for one, other in zip(some, others, strict=True):
                assert one.progress == other.progress
                assert one.score == pytest.approx(other.score, abs=1e-4)
        assert ours[-1].metrics["validation"] == pytest.approx(
            theirs[-1].metrics["validation"], abs=2e-3
        )
        own = ours[-1].details["validation"]["standard_error"]
        assert own == pytest.approx(theirs[-1].details["validation"]["standard_error"], abs=1e-3)


def assert_same_weights(fused: list[Assignment], separate: list[Assignment]) -> None:
    for one, other in zip(fused, separate, strict=True):
        ours, theirs = (
            load_file(Path(a.model_folder) / "weights.safetensors") for a in (one, other)
        )
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=2e-4), name


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"train": "train: {epochs: 3, batch_size: 96, optimizer: {name: sgd, momentum: 0.5}}"},
        {"model": "model: {kind: mlp, hidden: [16, 16], norm: none, residual: true}",
         "train": "train: {epochs: 3, batch_size: 200, optimizer: {parameters: {'head.*': {learning_rate: 0.1}}}}"},
    ],
    ids=["adamw", "sgd", "patterns"],
)  # fmt: skip
def test_fused_equals_separate(assigned, parts):
    trials = [{k: v for k, v in t.items() if parts == {} or "dropout" not in k} for t in TRIALS]
    fused, separate = assigned("fused", trials, **parts), assigned("separate", trials, **parts)
    ours, theirs = together(fused), alone(separate)
    assert all(isinstance(events[-1], Finished) for events in ours)
    assert_equal(ours, theirs)
    assert_same_weights(fused, separate)


FEATURES = "{x: number, z: number, color: category}"


@pytest.mark.parametrize(
    "target, features",
    [
        ("target: late, task: binary, weight: count", FEATURES),
        ("target: amount, task: regression", FEATURES),
        ("target: kind, task: multiclass", "{x: number, color: {type: text, max_tokens: 3}}"),
        # So many values that splits miss some, and tables of embeddings have other lengths.
        ("target: late, task: binary", "{x: number, code: category}"),
    ],
    ids=["weighted", "scaled", "text", "shapes"],
)
def test_a_seed_is_a_trials_own(assigned, tmp_path, table, target, features):
    """Its split, order of rows, first weights and dropout; where shapes do not agree, too."""
    rows, source = pq.read_table(table), tmp_path / "rows.parquet"
    codes = np.random.default_rng(0).integers(0, 400, len(rows)).astype(str)
    pq.write_table(rows.append_column("code", pa.array(codes)), source)
    parts = {"data": f"data: {{source: {source}, {target}, features: {features}}}"}
    trials = [{**trial, "seed": (5, 6, 5, 7, 6)[i]} for i, trial in enumerate(TRIALS)]
    fused, separate = assigned("fused", trials, **parts), assigned("separate", trials, **parts)
    assert fuse_key(fused[0].spec) == fuse_key(fused[1].spec) is not None
    ours, theirs = together(fused), alone(separate)
    assert_equal(ours, theirs)
    assert_same_weights(fused, separate)
    shapes = {open_data(assignment).shape for assignment in fused}
    assert len(shapes) == (3 if "code" in features else 1)


def test_a_paused_trial_goes_on_in_any_company(assigned):
    """Fused to epoch 2; then some go on alone, some in a new cohort: as if never touched."""
    first = assigned("fused", until=2)
    paused = together(first)
    # What has come to its pause before tells its last validation again.
    assert [type(event) for event in together(first[3:4])[0][-2:]] == [Validated, Stopped]
    assert all(isinstance(events[-1], (Stopped, Finished)) for events in paused)
    rest = [replace(a, until=None) for a in first]
    again = [*alone(rest[:2]), *together(rest[2:])]
    separate = assigned("separate")
    for ours, theirs in zip(again, alone(separate), strict=True):
        assert ours[-1].metrics["validation"] == pytest.approx(
            theirs[-1].metrics["validation"], abs=2e-3
        )
    assert_same_weights(rest, separate)


def test_a_trial_that_fails_does_not_touch_the_others(assigned):
    trials = [{"train.optimizer.learning_rate": rate} for rate in (0.003, 1e30, 0.01)]
    parts = {"train": "train: {epochs: 2, batch_size: 96, optimizer: {name: sgd}}"}
    ours = together(assigned("fused", trials, **parts))
    theirs = alone(assigned("separate", [trials[0], trials[2]], **parts))
    assert isinstance(ours[1][-1], Failed) and "the training loss is" in ours[1][-1].message
    assert_equal([ours[0], ours[2]], theirs)


def test_those_that_go_on_when_the_first_have_ended_keep_their_dropout(assigned):
    """A cohort is made anew once half of it has ended; its draws come on."""
    idle = {"train.optimizer.learning_rate": 1e-12}  # never better than at first: ends early
    busy = [
        {"train.optimizer.learning_rate": rate, "train.early_stopping": None}
        for rate in (0.003, 0.01)
    ]
    trials = [idle, {**idle, "model.dropout": 0.3}, {**idle, "model.dropout": 0.4}, *busy]
    fused, separate = assigned("fused", trials), assigned("separate", trials)
    ours, theirs = together(fused), alone(separate)
    assert [events[-1].step for events in ours][0] < ours[-1][-1].step
    assert_equal(ours, theirs)
    assert_same_weights(fused[3:], separate[3:])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_models_are_updated_at_once_as_one_after_another(name):
    """What a GPU does, on the CPU: each model's rate, decay and clip norm, and factors that change."""
    specs = [
        OptimizerSpec(
            name=name, learning_rate=rate, weight_decay=10 * rate, momentum=0.5,
            parameters={"1.*": {"learning_rate": 0.1}},
        )
        for rate in (0.001, 0.01, 0.03)
    ]  # fmt: skip
    found = []
    for at_once in (False, True):
        torch.manual_seed(4)
        models = [torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 1)) for _ in specs]
        model = stacked(models, own_rows=False)
        optimizer = StackedOptimizer(specs, [None, 0.1, 1.0], model)
        optimizer.load([{}] * 3, step=7)
        optimizer.at_once = at_once
        for step in range(6):
            factors = [1.0, 1.0 - step // 2 / 4, 0.5]
            x = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(step))
            optimizer.step(model(x).square().sum(), factors)
        state = [optimizer.state_of(place) for place in range(3)]
        found.append((dict(model.state_dict()), state))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
