"""What the trials of a sweep say together: their order, which of them cannot be told apart, and
which hyper-parameters matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from heliostat.spec.metrics import TIE_BREAKER

Row = Mapping[str, Any]
CONFIDENCE = 1.96  # deviations: 95 per cent, two-sided
GROUPS = 5


def ranked(rows: Sequence[Row], goal: str) -> list[Row]:
    """Final rows of a ledger with a score, best first: those that went to their end, then the
    others; of equal scores the lower log loss, if there is one.
    """
    sign = -1.0 if goal == "max" else 1.0
    scored = [row for row in rows if row["status"] != "failed" and row["score"] is not None]

    def place(row: Row) -> tuple[bool, float, float]:
        tie = row.get("metrics", {}).get(TIE_BREAKER)
        unknown = tie is None or not math.isfinite(tie)
        return row["status"] != "finished", sign * row["score"], math.inf if unknown else tie

    return sorted(scored, key=place)


def num_alike(best_first: Sequence[Row]) -> int | None:
    """How many of the next trials cannot be told from the best one: their scores differ by less
    than 1.96 times the standard error of the difference. None if the best one's is not known. The
    errors are taken as independent; trials are scored on the same rows, so this errs on the side
    of calling them alike.
    """
    if not best_first or best_first[0].get("uncertainty") is None:
        return None
    best, *others = best_first
    count = 0
    for row in others:
        error = row.get("uncertainty")
        if error is None or row["status"] != best["status"]:
            break
        if abs(row["score"] - best["score"]) > CONFIDENCE * math.hypot(error, best["uncertainty"]):
            break
        count += 1
    return count


def importances(rows: Sequence[Row], scores: Mapping[str, float]) -> dict[str, float]:
    """Of each searched key, the share of the scores' variance that it explains alone: the
    correlation ratio between groups of equal values, or of neighbouring ones (Pearson, 1905), less
    what groups of that number explain by chance. The largest first; 0 to 1.
    """
    keys = dict.fromkeys(key for row in rows for key in row["config"])
    found = {key: _explained(rows, scores, key) for key in keys}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _explained(rows: Sequence[Row], scores: Mapping[str, float], key: str) -> float:
    known = [(row["config"][key], scores[row["id"]]) for row in rows
             if key in row["config"] and row["id"] in scores]  # fmt: skip
    groups = _groups(known)
    values = [score for _, score in known]
    if len(groups) < 2 or len(values) <= len(groups):
        return 0.0
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    within = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    if total == 0:
        return 0.0
    # Adjusted as a coefficient of determination is.
    ratio = (within / (len(values) - len(groups))) / (total / (len(values) - 1))
    return max(0.0, 1 - ratio)


def _groups(known: Sequence[tuple[Any, float]]) -> list[list[float]]:
    by_value: dict[str, list[float]] = defaultdict(list)
    for value, score in known:
        by_value[str(value)].append(score)
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v, _ in known)
    if len(by_value) <= GROUPS or not numeric:
        return list(by_value.values())
    scores = [score for _, score in sorted(known, key=lambda pair: pair[0])]
    cuts = [len(scores) * part // GROUPS for part in range(GROUPS + 1)]
    return [scores[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True) if b > a]
