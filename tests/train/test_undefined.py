"""Early stopping goes by scores that exist."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.train.stopping import Progress

SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3]), max_size=12)


@given(SCORES, st.data(), st.sampled_from(["min", "max"]))
def test_a_score_that_does_not_exist_neither_ranks_nor_stops(scores, data, goal):
    def told(score, progress, step):
        return progress.after(score, step, goal, plateau=2)

    plain, holed = Progress(), Progress()
    for step, score in enumerate(scores):
        plain = told(score, plain, step)
        for nothing in data.draw(
            st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), max_size=2)
        ):
            holed = told(nothing, holed, step)
        holed = told(score, holed, step)
    assert holed == plain


@pytest.mark.parametrize("goal", ["min", "max"])
def test_scores_that_never_exist_leave_no_best(goal):
    progress = Progress()
    for step in range(9):
        progress = progress.after(math.nan, step, goal)
    assert progress.best_score is None and progress.num_worse == 0
