"""What is said when a run has ended well."""

from __future__ import annotations

from heliostat.report.console import Console, metric_text
from heliostat.report.result import Result
from heliostat.storage.objects import StorePath


def tell_result(result: Result, page: StorePath, console: Console) -> None:
    """The metrics of each split, where the time went, and where the report is."""
    for split, metrics in result.metrics.items():
        style = "bold" if split == "test" else None
        console.line(f"{split:<12}{metric_text(metrics)}", style, hang=12)
    phases = "  ".join(f"{name} {seconds:.1f}s" for name, seconds in result.seconds.items())
    console.line(f"time      {phases}")
    console.line(f"report    {page}")
