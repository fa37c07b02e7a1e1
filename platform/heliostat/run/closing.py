"""What is said when a run has ended, and how to go on from there."""

from __future__ import annotations

from heliostat.report.console import Console, metric_text
from heliostat.report.lines import command_of
from heliostat.report.result import Result
from heliostat.storage.objects import StorePath
from heliostat.storage.runs import RunFolder


def tell_result(result: Result, page: StorePath, console: Console) -> None:
    """The metrics of each split, where the time went, and where the report is."""
    for split, metrics in result.metrics.items():
        style = "bold" if split == "test" else None
        console.line(f"{split:<12}{metric_text(metrics)}", style, hang=12)
    phases = "  ".join(f"{name} {seconds:.1f}s" for name, seconds in result.seconds.items())
    console.line(f"time      {phases}")
    console.line(f"report    {page}")


def resume_command(folder: RunFolder) -> str:
    """The command that continues a run, from wherever it is given."""
    storage = ("--storage", folder.storage.root)
    return command_of("heliostat", "run", "--resume", folder.reference, *storage)
