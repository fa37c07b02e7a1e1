"""What the rows of each kind of log must hold; a row that lacks it is none of ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType, NoneType
from typing import Any

NUMBER = (int, float)
MAYBE = (int, NoneType, EllipsisType)
TRIAL = {"id": str, "index": int, "config": dict}
REACHED = {**TRIAL, "progress": int, "score": (*NUMBER, NoneType), "metrics": dict}
PART = {**REACHED, "fold": MAYBE, "rung": MAYBE, "seconds": (*NUMBER, EllipsisType)}
LEDGER: dict[str, dict[str, Any]] = {  # by `kind`
    "sweep": {},
    "chosen": {"search": str, "index": int, "config": dict},
    "rung": PART,
    "fold": PART,
    "final": {**REACHED, "status": str, "seconds": NUMBER, "run": str, "error": (str, NoneType)},
}


def ledger_fault(row: Mapping[str, Any]) -> str:
    """Why a row cannot be one of a sweep's ledger; empty if it can."""
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in LEDGER:
        return "no row of a ledger"
    return _lacking(row, LEDGER[kind], "a ledger")


def metric_fault(row: Mapping[str, Any]) -> str:
    """Why a row cannot be one of the metrics; empty if it can."""
    return _lacking(row, {"step": int}, "metrics")


def line_fault(row: Mapping[str, Any]) -> str:
    """Why a row cannot be a line of what a run said; empty if it can."""
    return _lacking(row, {"line": str}, "a log")


def _lacking(row: Mapping[str, Any], types: Mapping[str, Any], log: str) -> str:
    wrong = [key for key, kind in types.items() if not isinstance(row.get(key, ...), kind)]
    return f"no row of {log}: `{wrong[0]}`" if wrong else ""
