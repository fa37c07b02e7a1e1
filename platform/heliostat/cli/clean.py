"""`heliostat clean`."""

from __future__ import annotations

import click

from heliostat.cli.main import print_json
from heliostat.cli.options import open_storage, storage_option
from heliostat.errors import Problem, UserError
from heliostat.plan.memory import format_bytes
from heliostat.spec.base import parse_duration_seconds


@click.command("clean")
@storage_option
@click.option("--older-than", default="30d", show_default=True, help="Age of what may go.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")
def command(storage: str | None, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove old prepared copies, checkpoints of ended runs, and leftovers."""
    seconds = parse_duration_seconds(older_than)
    if seconds is None:
        raise UserError(Problem("--older-than", f"`{older_than}` is no duration", "write 30d"))
    from heliostat.storage.clean import find_stale, remove
    from heliostat.storage.runs import MARKER

    opened = open_storage(storage)
    if not (opened.root / MARKER).exists():
        what = f"{opened.root} is no storage of heliostat's: it holds no {MARKER}"
        raise UserError(Problem("--storage", what))
    found = find_stale(opened, seconds)
    for stale in found:
        if not dry_run:
            remove(stale)
        if not as_json:
            place = str(stale.path).removeprefix(f"{opened.root}/")
            print(f"{format_bytes(stale.num_bytes):>10}  {place}  {stale.reason}")
    total = sum(stale.num_bytes for stale in found)
    if as_json:
        rows = [{"path": str(s.path), "reason": s.reason, "bytes": s.num_bytes} for s in found]
        print_json({"removed": not dry_run, "bytes": total, "found": rows})
    else:
        what = "would go" if dry_run else "removed"
        print(f"{format_bytes(total):>10}  {what} in {opened.root}")
