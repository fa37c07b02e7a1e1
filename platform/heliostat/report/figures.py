"""The page's charts, as inline SVG drawn by matplotlib: no script, no network, small files."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, MUTED, GRID, ACCENT, WARM = "#1d2733", "#66727f", "#e4e8ec", "#c9780a", "#2f6f9f"
HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#f6d9a8", "#c9780a"])
MAX_CURVES = 40
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "heliostat",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Row = Mapping[str, Any]


def curve_figure(rows: Sequence[Row], metric: str, by_trial: bool) -> str:
    """Training loss and the objective on validation, over steps."""
    key = f"validation/{metric}"
    has_loss = any("train/loss" in row for row in rows) and not by_trial
    has_metric = any(row.get(key) is not None for row in rows)
    if not (has_loss or has_metric):
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.1), layout="constrained")
        wanted = [name for name, there in (("train/loss", has_loss), (key, has_metric)) if there]
        axes = figure.subplots(1, len(wanted), squeeze=False)[0]
        for axis, name in zip(axes, wanted, strict=True):
            _curves(axis, rows, name, by_trial)
        return svg(figure, "Learning curves")


def _curves(axis: Axes, rows: Sequence[Row], name: str, by_trial: bool) -> None:
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row.get(name) is not None:
            curve = row.get("trial") if by_trial else row.get("fold")
            curves[str(curve)].append((row["step"], row[name]))
    for points in list(curves.values())[:MAX_CURVES]:
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) < 40 and name.startswith("validation") else None
        color = WARM if name.startswith("validation") else ACCENT
        alpha = 0.55 if len(curves) > 1 else 1.0
        axis.plot(steps, values, color=color, lw=1.6, marker=marker, ms=3, alpha=alpha)
    axis.set_title(name, loc="left", fontsize=11)
    axis.set_xlabel("step")
    axis.grid(axis="y", color=GRID, lw=0.8)


def trial_figure(trials: Sequence[Row], objective: Mapping[str, Any]) -> str:
    """Every searched key against the objective; cut trials are hollow."""
    searched = dict.fromkeys(key for trial in trials for key in trial["config"])
    keys = [key for key in searched if _is_numeric(trials, key) or _few_values(trials, key)]
    if not keys:
        return ""
    with mpl.rc_context(STYLE):
        columns = min(3, len(keys))
        lines = -(-len(keys) // columns)
        figure = Figure(figsize=(9.2, 2.9 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, key in zip(axes, keys, strict=False):
            _scatter(axis, trials, key, str(objective["metric"]))
        for axis in axes[len(keys) :]:
            axis.set_visible(False)
        return svg(figure, "Trials")


def _scatter(axis: Axes, trials: Sequence[Row], key: str, metric: str) -> None:
    numeric = _is_numeric(trials, key)
    for cut in (True, False):
        chosen = [t for t in trials if (t["status"] == "cut") is cut]
        x = [t["config"][key] if numeric else str(t["config"].get(key)) for t in chosen]
        y = [t["score"] for t in chosen]
        face = "none" if cut else ACCENT
        axis.scatter(x, y, s=26, facecolors=face, edgecolors=ACCENT, linewidths=1.1, zorder=3)
    values = [t["config"].get(key) for t in trials]
    if numeric and min(values) > 0 and max(values) / min(values) >= 30:
        axis.set_xscale("log")
    axis.set_xlabel(key)
    axis.set_ylabel(metric)
    axis.grid(color=GRID, lw=0.8)


def confusion_figure(picture: Mapping[str, Any], side: str) -> str:
    """Counts of true against predicted class, shaded by the share of the true class."""
    counts, classes = picture["confusion"], picture["classes"]
    size = len(classes)
    shares = [[c / max(1, sum(row)) for c in row] for row in counts]
    with mpl.rc_context(STYLE):
        edge = min(7.5, 2.6 + 0.42 * size)
        figure = Figure(figsize=(edge + 0.6, edge), layout="constrained")
        axis = figure.subplots()
        axis.imshow(shares, cmap=HEAT, vmin=0, vmax=1)
        axis.set_xticks(range(size), [str(c) for c in classes], rotation=0 if size < 12 else 90)
        axis.set_yticks(range(size), [str(c) for c in classes])
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        axis.tick_params(length=0)
        if size <= 20:
            for i, row in enumerate(counts):
                for j, count in enumerate(row):
                    axis.text(j, i, f"{count:,}", ha="center", va="center", color=INK, fontsize=9)
        return svg(figure, f"Confusion matrix, {side}")


def residual_figure(residuals: Mapping[str, Any], side: str) -> str:
    """A histogram of predicted minus true."""
    counts, edges = residuals["counts"], residuals["edges"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.0), layout="constrained")
        axis = figure.subplots()
        widths = [b - a for a, b in zip(edges[:-1], edges[1:], strict=True)]
        axis.bar(edges[:-1], counts, widths, align="edge", color=WARM, edgecolor="white", lw=0.4)
        axis.axvline(0, color=INK, lw=1)
        axis.set_xlabel("predicted - true")
        axis.set_ylabel("rows")
        axis.grid(axis="y", color=GRID, lw=0.8)
        axis.set_axisbelow(True)
        return svg(figure, f"Residuals, {side} (middle 99 per cent)")


def _is_numeric(trials: Sequence[Row], key: str) -> bool:
    values = [trial["config"].get(key) for trial in trials]
    return all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def _few_values(trials: Sequence[Row], key: str) -> bool:
    return len({str(trial["config"].get(key)) for trial in trials}) <= 12


def svg(figure: Figure, title: str) -> str:
    """A figure for the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    return f"<figure><figcaption>{title}</figcaption>{text[text.index('<svg') :]}</figure>"
