"""Cross-validation is its folds' trainings and one more, interrupted or not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from heliostat.parallel.world import SoloWorld
from heliostat.storage.lease import Lease
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.control import NoControl
from heliostat.train.events import Finished, Resumed, Stepped, Stopped, StoppedEarly, Validated
from heliostat.train.job import train_events, training
from tests.conftest import job_text
from tests.data.packing import plan_of, prepare_here
from tests.train.test_loop import StopAt

PARTS = {
    "mlp": {"model": "model: {kind: mlp, hidden: [8]}", "train": "train: {epochs: 3, batch_size: 32}"},
    "xgboost": {
        "model": "model: {kind: xgboost, max_depth: 3}",
        "train": "train: {rounds: 45, validate_every: 5, early_stopping: {patience: 2}}",
    },
    "linear": {"model": "model: {kind: linear}", "train": ""},
}  # fmt: skip


@pytest.fixture
def assignment(tmp_path, table, monkeypatch):
    def build(kind: str, *settings: str) -> Assignment:
        (tmp_path / "job.yaml").write_text(job_text(table, **PARTS[kind]))
        plan = plan_of(tmp_path / "job.yaml", *settings)
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        return Assignment(
            job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
            prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
            model_folder=str(tmp_path / "model"),
        )  # fmt: skip

    return build


def model_bytes(folder) -> dict:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["model.json"] = json.loads(files["model.json"])["transforms"]
    if "estimator.skops" in files:
        files.pop("estimator.skops")  # a zip with times
    return files


@pytest.mark.parametrize("kind", list(PARTS))
def test_folds_are_trainings_of_their_own(assignment, tmp_path, kind):
    whole = assignment(kind, "data.split={method: stratified, folds: 3, test: 0.2}")
    events = list(train_events(whole, SoloWorld(), NoControl()))
    finished = events[-1]
    assert isinstance(finished, Finished) and len(finished.folds) == 3
    early = [event for event in events if isinstance(event, StoppedEarly)]
    assert [event.fold.index for event in early] == ([0, 1, 2] if kind == "xgboost" else [])
    assert all(event.num_worse == 2 and event.best == event.reached - 10 for event in early)
    model = model_bytes(tmp_path / "model")
    lengths = []
    for fold, metrics in enumerate(finished.folds):
        part = replace(whole, fold=fold, final=False, model_folder=None)
        *_, alone = training(part, SoloWorld(), NoControl())
        assert alone.metrics["validation"] == metrics
        lengths.append(alone.progress)
    mean = sum(fold["auc"] for fold in finished.folds) / 3
    assert finished.metrics["validation"]["auc"] == pytest.approx(mean) == finished.score
    settings = ["data.split={method: stratified, validation: 0, test: 0.2}"]
    if kind == "xgboost":
        settings += [f"train.rounds={round(sum(lengths) / 3)}", "train.early_stopping=null"]
    *_, alone = training(assignment(kind, *settings), SoloWorld(), NoControl())
    # Statistics merged from the folds' differ from those of one sweep in their last bits.
    assert alone.metrics["test"] == pytest.approx(finished.metrics["test"], rel=1e-4)
    if kind == "xgboost":  # which nothing scales
        assert model_bytes(tmp_path / "model") == model


@pytest.mark.parametrize("kind", ["mlp", "xgboost"])
def test_an_interrupted_cross_validation_repeats_no_finished_fold(assignment, tmp_path, kind):
    settings = ["data.split={method: random, folds: 3, test: 0.2}"]
    lease = Lease.acquire(tmp_path / "lease")
    place = RunPlace(str(tmp_path / "undisturbed"), str(tmp_path / "lease"), lease.token)
    job = replace(assignment(kind, *settings), place=place)
    undisturbed = list(train_events(job, SoloWorld(), NoControl()))
    model = model_bytes(tmp_path / "model")
    job = replace(job, place=replace(place, checkpoints=str(tmp_path / "checkpoints")))
    seen = []
    for event in train_events(job, SoloWorld(), StopAt(10**9)):
        seen.append(event)
        if isinstance(event, (Stepped, Validated)) and event.fold.index == 1:
            break  # as a killed worker leaves it
    resumed = list(train_events(job, SoloWorld(), NoControl()))
    assert not any(
        isinstance(event, (Stepped, Validated)) and event.fold.index == 0 for event in resumed
    )
    assert resumed[-1].folds == undisturbed[-1].folds
    assert resumed[-1].metrics == undisturbed[-1].metrics
    assert model_bytes(tmp_path / "model") == model
    first = next(event for event in resumed if isinstance(event, Resumed))
    rows = [
        (e.row()["fold"], e.step) for e in undisturbed
        if isinstance(e, (Stepped, Validated)) and e.fold.index == 0
    ]  # fmt: skip
    assert [(row["fold"], row["step"]) for row in first.history] == rows


def test_a_stop_ends_it_and_tells(assignment, tmp_path):
    lease = Lease.acquire(tmp_path / "lease")
    place = RunPlace(str(tmp_path / "checkpoints"), str(tmp_path / "lease"), lease.token)
    job = replace(assignment("mlp", "data.split={method: random, folds: 3}"), place=place)
    *_, last = train_events(job, SoloWorld(), StopAt(2))
    assert isinstance(last, Stopped)
