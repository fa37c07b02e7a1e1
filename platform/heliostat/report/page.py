"""`report.html`: one self-contained page about a run, which opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from statistics import stdev
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from heliostat.errors import ArtifactError
from heliostat.report.console import duration_text, number_text
from heliostat.report.figures import confusion_figure, curve_figure, residual_figure, trial_figure
from heliostat.report.leaderboard import importances, num_alike, ranked
from heliostat.report.result import Result
from heliostat.report.sweep_figures import importance_figure, parallel_figure, rung_figure
from heliostat.storage.files import read_json, understood, write_bytes
from heliostat.storage.lines import read_lines, tell_once
from heliostat.storage.objects import StorePath, matching
from heliostat.storage.rows import ledger_fault, metric_fault
from heliostat.storage.runs import RunFolder
from heliostat.storage.segments import read_rows

FILE = "report.html"
MAX_TRIAL_ROWS = 100
Row = Mapping[str, Any]


def write_report(folder: RunFolder) -> StorePath:
    """Write the page of a finished run; return where it is."""
    result = Result.load(folder.path)
    path = folder.path / FILE
    write_bytes(path, render_page(folder, result).encode())
    return path


def render_page(folder: RunFolder, result: Result) -> str:
    """The page as text."""
    rows = list(read_rows(folder.metrics, fault=metric_fault))
    trials = _trials(folder, result)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = number_text
    environment.filters["duration"] = duration_text
    template = environment.from_string(
        files("heliostat.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        result=result,
        score=result.score,
        sides=[side for side in ("train", "validation", "test") if side in result.metrics],
        names=list(next(iter(result.metrics.values()), {})),
        figures=[Markup(figure) for figure in _figures(folder, result, rows, trials)],
        spread=lambda name: _deviation([fold[name] for fold in result.folds]),
        trials=trials[:MAX_TRIAL_ROWS],
        num_trials=len(trials),
        keys=list(dict.fromkeys(key for trial in trials for key in trial["config"])),
        alike=num_alike(trials),
        plan=_text(folder.path / "plan.txt"),
        job=_text(folder.path / "job.yaml"),
        phases=_phases(result),
    )


def _figures(
    folder: RunFolder, result: Result, rows: Sequence[Row], trials: Sequence[Row]
) -> list[str]:
    figures = []
    if trials:
        metric = str(result.objective["metric"])
        rungs = _ledger_rows(folder, "rung")
        figures.append(parallel_figure(trials, metric))
        figures.append(importance_figure(importances(trials, _comparable(trials, rungs))))
        figures.append(rung_figure(rungs, trials, metric, _unit(folder)))
        figures.append(trial_figure(trials, result.objective))
        figures.append(
            curve_figure(_trial_rows(folder), str(result.objective["metric"]), by_trial=True)
        )
    elif rows:
        figures.append(curve_figure(rows, str(result.objective["metric"]), by_trial=False))
    figures.append(_picture(folder))
    return [figure for figure in figures if figure]


def _picture(folder: RunFolder) -> str:
    """What the model gets wrong; empty where nothing was kept of it."""
    path = folder.path / "details.json"
    if not path.exists():
        return ""
    try:
        details = read_json(path)
        with understood(path):
            side = "test" if "test" in details else "validation"
            picture = details.get(side, {})
            if "confusion" in picture:
                return confusion_figure(picture, side)
            return residual_figure(picture["residuals"], side) if "residuals" in picture else ""
    except ArtifactError as error:
        tell_once(f"{error}; its figure is left out")
        return ""


def _trials(folder: RunFolder, result: Result) -> list[Row]:
    """Final rows of the name's ledger, best first; only for a run that was a sweep."""
    if result.best is None:
        return []
    final = {row["id"]: row for row in _ledger_rows(folder, "final")}
    return ranked(list(final.values()), str(result.objective["goal"]))


def _ledger_rows(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    rows = read_rows(folder.path.parent / "trials", fault=ledger_fault)
    return [row for row in rows if row["kind"] == kind]


def _unit(folder: RunFolder) -> str:
    """What the length of training is counted in."""
    path = folder.path / "plan.json"
    try:
        with understood(path):
            return str(next(iter(read_json(path)["length"]), "progress"))
    except ArtifactError:
        return "progress"


def _comparable(trials: Sequence[Row], rungs: Sequence[Row]) -> dict[str, float]:
    """Scores at the same length: at the first rung, which every trial reaches, or at the end."""
    if not rungs:
        return {row["id"]: row["score"] for row in trials}
    first = min(row["rung"] for row in rungs)
    return {r["id"]: r["score"] for r in rungs if r["rung"] == first and r["score"] is not None}


def _trial_rows(folder: RunFolder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in matching(folder.metrics, "trial-*.jsonl"):
        rows += read_lines(path, tell_once, metric_fault)
    return rows


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def _phases(result: Result) -> list[tuple[str, float]]:
    return [(name, seconds) for name, seconds in result.seconds.items() if name != "total"]


def _text(path: StorePath) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
