"""Charts of a sweep: every trial as a line through its settings, what matters, scores by rung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heliostat.report.console import number_text
from heliostat.report.figures import ACCENT, GRID, HEAT, INK, MUTED, STYLE, WARM, svg

Row = Mapping[str, Any]
MOST_LINES = 300
LOG_RATIO = 30.0


def parallel_figure(best_first: Sequence[Row], metric: str) -> str:
    """Parallel coordinates (Inselberg, 1985): an axis a key and one for the score; better trials
    are darker and lie above.
    """
    keys = list(dict.fromkeys(key for row in best_first for key in row["config"]))
    if len(best_first) < 2:
        return ""
    axes = [_Scale([row["config"].get(key) for row in best_first]) for key in keys]
    axes.append(_Scale([row["score"] for row in best_first]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.4), layout="constrained")
        axis = figure.subplots()
        shown = list(best_first)[:MOST_LINES]
        for place, row in reversed(list(enumerate(shown))):
            values = [*(row["config"].get(key) for key in keys), row["score"]]
            heights = [scale.height(value) for scale, value in zip(axes, values, strict=True)]
            share = 1 - place / max(1, len(shown) - 1)
            color = INK if place == 0 else HEAT(0.25 + 0.75 * share)
            axis.plot(range(len(heights)), heights, color=color, lw=2.2 if place == 0 else 1.0)
        for x, scale in enumerate(axes):
            axis.axvline(x, color=MUTED, lw=0.8)
            for height, text in scale.ticks():
                axis.annotate(
                    text, (x, height), xytext=(4, 0), textcoords="offset points", fontsize=8,
                    color=INK, va="center",
                )  # fmt: skip
        axis.set_xticks(range(len(axes)), [*(key.split(".")[-1] for key in keys), metric])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        return svg(figure, "Settings and score of each trial; the best one is black")


class _Scale:
    """Where values stand on an axis from 0 to 1; what a trial does not have, below it."""

    def __init__(self, values: Sequence[Any]) -> None:
        known = [value for value in values if value is not None]
        self._numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)
        self._names = list(dict.fromkeys(str(value) for value in known))
        if self._numeric:
            low, high = min(known), max(known)
            self._log = low > 0 and high / low >= LOG_RATIO
            self._low, self._high = self._mapped(low), self._mapped(high)

    def height(self, value: Any) -> float:
        """0 at the least value, 1 at the largest."""
        if value is None:
            return -0.1
        if self._numeric:
            width = self._high - self._low
            return (self._mapped(value) - self._low) / width if width else 0.5
        return self._names.index(str(value)) / max(1, len(self._names) - 1)

    def ticks(self) -> list[tuple[float, str]]:
        """(height, text) of what is written beside the axis."""
        if not self._numeric:
            return [(self.height(name), name) for name in self._names[:12]]
        if self._low == self._high:
            return [(0.5, self._text(self._low))]
        middle = (self._low + self._high) / 2
        places = zip((0.0, 0.5, 1.0), (self._low, middle, self._high), strict=True)
        return [(height, self._text(value)) for height, value in places]

    def _mapped(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def _text(self, mapped: float) -> str:
        return number_text(10**mapped if self._log else mapped)


def importance_figure(shares: Mapping[str, float]) -> str:
    """Bars: how much of the variance of scores each key explains alone."""
    if not shares or max(shares.values()) == 0:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 0.6 + 0.36 * len(shares)), layout="constrained")
        axis = figure.subplots()
        names = list(shares)[::-1]
        axis.barh(names, [shares[name] for name in names], color=WARM, height=0.6)
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of the scores' variance that it explains alone")
        axis.grid(axis="x", color=GRID, lw=0.8)
        axis.set_axisbelow(True)
        return svg(figure, "What matters")


def rung_figure(rung_rows: Sequence[Row], final: Sequence[Row], metric: str, unit: str) -> str:
    """Each trial's score from rung to rung; those that went to their end are filled."""
    courses: dict[str, dict[int, list[float]]] = {}
    for row in rung_rows:
        if row["score"] is not None:
            courses.setdefault(row["id"], {}).setdefault(row["rung"], []).append(row["score"])
    if not courses:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.1), layout="constrained")
        axis = figure.subplots()
        for row in list(final)[:MOST_LINES]:
            _course(axis, courses.get(row["id"], {}), row)
        rungs = sorted({rung for course in courses.values() for rung in course})
        for rung in rungs:
            axis.axvline(rung, color=GRID, lw=1, zorder=0)
        axis.set_xscale("log")
        ends = {row["progress"] for row in final if row["status"] == "finished"}
        axis.set_xticks(sorted({*rungs, max(ends, default=rungs[-1])}))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.minorticks_off()
        axis.set_ylim(*_range_of_interest([row["score"] for row in final]))
        axis.set_xlabel(unit)
        axis.set_ylabel(metric)
        return svg(figure, "Scores by rung")


def _range_of_interest(best_first: Sequence[float]) -> tuple[float, float]:
    """From the best score to that of the trial at three quarters: what is worse needs no room."""
    best, worse = best_first[0], best_first[min(len(best_first) - 1, 3 * len(best_first) // 4)]
    margin = 0.08 * abs(best - worse) or 1e-6
    return min(best, worse) - margin, max(best, worse) + margin


def _course(axis: Axes, rungs: Mapping[int, Sequence[float]], row: Row) -> None:
    points = {rung: sum(scores) / len(scores) for rung, scores in rungs.items()}
    points[row["progress"]] = row["score"]
    at = sorted(points)
    finished = row["status"] == "finished"
    color = ACCENT if finished else MUTED
    axis.plot(at, [points[x] for x in at], color=color, lw=1.2, alpha=0.9 if finished else 0.4)
    axis.plot(at[-1:], [row["score"]], "o", ms=4, color=color, mfc=color if finished else "none")
