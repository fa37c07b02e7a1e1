"""A sweep by the public command, on the session's cluster."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from heliostat.storage.segments import read_rows


@dataclass(frozen=True)
class Ran:
    """A finished sweep: its result, what it said, and the ledger of its name."""

    result: dict[str, Any]
    told: str
    folder: Path

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in read_rows(self.folder / "trials") if row["kind"] == kind]

    @property
    def final(self) -> dict[str, dict[str, Any]]:
        """The last final row of each trial."""
        return {row["id"]: row for row in self.rows("final")}


@pytest.fixture
def swept(heliostat, make_job, tmp_path, ray_head):
    def run(name: str = "small", **parts) -> Ran:
        job = make_job(name=f"name: {name}", **parts)
        done = heliostat("run", job, "--set", f"storage={tmp_path}/s", "--json",
                         env={"RAY_ADDRESS": ray_head.address})  # fmt: skip
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "s" / "runs" / name
        return Ran(json.loads(done.stdout), done.stderr, folder)

    return run
