"""Wait for Ray, and show that it is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from heliostat.report.console import Console

if TYPE_CHECKING:
    from heliostat.run.cluster import Cluster


@contextmanager
def cluster_at(address: str | None) -> Iterator[Cluster]:
    """See `connected`, which this calls."""
    console = Console()
    with ExitStack() as stack, console.resting():
        from heliostat.run.cluster import connected, what_starts  # Ray: seconds

        console.doing(what_starts(address))
        cluster = stack.enter_context(connected(address, note=console.line))
        console.rest()
        yield cluster
