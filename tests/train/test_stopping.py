"""The best score so far: what is better, and what decides where scores are equal."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from heliostat.parallel.world import SoloWorld
from heliostat.report.leaderboard import ranked
from heliostat.train.assignment import Assignment
from heliostat.train.control import NoControl
from heliostat.train.events import Validated
from heliostat.train.job import train_events
from heliostat.train.stopping import Progress
from tests.data.packing import plan_of, prepare_here

scores = st.sampled_from([0.5, 0.75, 1.0, float("nan")])
ties = st.sampled_from([0.1, 0.2, 0.3, float("inf"), float("nan")])


@given(st.lists(st.tuples(scores, ties), min_size=1), st.sampled_from(["min", "max"]))
def test_the_best_is_the_first_of_the_best_score_and_lowest_tie(told, goal):
    progress = Progress()
    for step, (score, tie) in enumerate(told, 1):
        progress = progress.after(score, step, goal, tie=tie)
        progress = Progress.from_json(json.loads(json.dumps(progress.to_json(), allow_nan=False)))
    sign = -1 if goal == "max" else 1
    known = [(sign * s, s, t, i) for i, (s, t) in enumerate(told, 1) if s == s]
    if not known:
        assert progress.best_score is None
        return
    equal = [(t, i) for cost, _, t, i in known if cost == min(known, key=lambda k: k[0])[0]]
    finite = [(t, i) for t, i in equal if np.isfinite(t)]
    first = equal[0]  # one without a tie is beaten by none
    expected = min(finite) if np.isfinite(first[0]) else first
    assert progress.best_step == expected[1]
    # A score that does not exist is none of the worse ones.
    assert progress.num_worse == sum(s == s for s, _ in told[progress.best_step :])


def test_accuracy_that_stands_still_does_not_stop_what_still_learns(tmp_path, monkeypatch):
    """Rounds are compared by log loss where their accuracy is the same."""
    x = np.random.default_rng(0).normal(size=400)
    pq.write_table(pa.table({"x": x, "y": x > 0}), tmp_path / "d.parquet")
    job = {
        "name": "t", "objective": "accuracy",
        "data": {"source": "d.parquet", "target": "y", "task": "binary"},
        "model": {"kind": "xgboost", "learning_rate": 0.05},
        "train": {"rounds": 40, "early_stopping": {"patience": 3}},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    plan = plan_of(tmp_path / "job.yaml")
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    assignment = Assignment(
        job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
        prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
        model_folder=None,
    )  # fmt: skip
    events = list(train_events(assignment, SoloWorld(), NoControl()))
    rounds = [event for event in events if isinstance(event, Validated)]
    best = min(rounds, key=lambda event: (-event.score, event.metrics["log_loss"]))
    assert rounds[3].score == 1.0 and len(rounds) == 40
    assert best.step == 40 and [event for event in rounds if event.improved][-1] == best


def test_the_leaderboard_ranks_equal_scores_by_log_loss():
    told = [
        ("finished", 0.9, 0.4),
        ("cut", 1.0, 0.1),
        ("finished", 0.9, 0.3),
        ("finished", 0.9, None),
    ]
    rows = [
        {"status": status, "score": score, "metrics": {"accuracy": score, "log_loss": loss}}
        for status, score, loss in told
    ]
    assert ranked(rows, "max") == [rows[2], rows[0], rows[3], rows[1]]
