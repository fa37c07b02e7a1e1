"""A disk that is really full: what is finished stays, and the sentence names folder and room."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from heliostat.errors import StorageError
from heliostat.report.console import Console
from heliostat.report.tensorboard import TensorBoard
from heliostat.run.record import RunRecord
from heliostat.spec.load import load_job
from heliostat.storage.files import take_room, write_json
from heliostat.storage.folders import new_file
from heliostat.storage.lease import Lease
from heliostat.storage.runs import Storage
from heliostat.train.checkpoint import CommittedCheckpoints

TOLD = r"No space left on device \([\d,]+ bytes free in .*\); make room"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def spec(make_job):  # type: ignore[no-untyped-def]
    return load_job(make_job()).spec


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as handle:
        while True:
            try:
                handle.write(b"x" * 1024)
            except OSError:
                return


def test_a_run_ends_in_a_state_that_is_not_running(small_disk, spec):
    storage = Storage.open(str(small_disk / "s"))
    folder = storage.run("small", "one")
    folder.path.mkdir(parents=True)
    write_json(folder.path / "identity.json", {"identity": "x", "fixed": {}, "job": {}})
    lease = Lease.acquire(folder.lease)
    assert lease is not None
    console = Console()
    record = RunRecord(folder, lease, console, spec)
    fill(small_disk)
    with pytest.raises(StorageError, match=TOLD) as caught:
        for _ in range(200):
            console.line("what a run says " * 20)
    record.end(caught.value)
    state = json.loads((folder.path / "state.json").read_text())
    assert state["status"] == "INTERRUPTED" and "No space left" in state["error"]
    assert "--resume small/one" in state["next"]
    assert not any(path.name == ".reserve" for path in folder.path.iterdir())
    assert Lease.acquire(folder.lease) is not None  # it has been given back


def test_a_heartbeat_outlives_a_full_disk(small_disk, spec, monkeypatch):
    from heliostat.run import record as module

    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    storage = Storage.open(str(small_disk / "s"))
    folder = storage.run("small", "one")
    folder.path.mkdir(parents=True)
    lease = Lease.acquire(folder.lease)
    assert lease is not None
    record = RunRecord(folder, lease, Console(), spec)
    fill(small_disk)
    failed: list[str] = []
    beat = lease.beat

    def tried() -> None:
        try:
            beat()
        except StorageError as error:
            failed.append(str(error))
            raise

    lease.beat = tried
    for _ in range(1000):
        if len(failed) > 2:
            break
        record._ended.wait(0.02)
    assert len(failed) > 2 and record._thread.is_alive()
    record.end(StorageError("full"))


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(small_disk):
    lease = Lease.acquire(small_disk / "lease")
    assert lease is not None
    place = small_disk / "checkpoints"
    checkpoints = CommittedCheckpoints(place, small_disk / "lease", lease.token, 2, {})

    def write(size: int):  # type: ignore[no-untyped-def]
        return lambda folder: (folder / "weights").write_bytes(os.urandom(size))

    checkpoints.save({"step": 1}, write(300_000), best=False, due=True)
    with pytest.raises(StorageError, match=TOLD):
        checkpoints.save({"step": 2}, write(900_000), best=False, due=True)

    class LibraryError(Exception):
        """As safetensors raises, without a number."""

    def fails(folder: Path) -> None:
        raise LibraryError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    with pytest.raises(StorageError, match=TOLD):
        checkpoints.save({"step": 3}, fails, best=False, due=True)
    found, skipped = checkpoints.latest()
    assert found is not None and found.step == 1 and skipped == []
    assert [path.name for path in place.iterdir()] == ["step-000000001"]


def test_other_writers_find_no_room_in_a_sentence(small_disk):
    rows = np.lib.format.open_memmap(small_disk / "rows.npy", "w+", np.int64, (10**6,))
    with pytest.raises(OSError, match="No space left"):  # and not a signal that kills the process
        take_room(small_disk / "rows.npy")
    del rows
    (small_disk / "rows.npy").unlink()
    with pytest.raises(StorageError, match=TOLD), new_file(small_disk / "a.npy") as file:
        np.save(file.open("wb"), np.zeros(10**6))
    assert not list(small_disk.iterdir())
    board = TensorBoard(small_disk / "tensorboard")
    board.add({"time": 1.0, "step": 1, "train/loss": 0.5})
    fill(small_disk)
    with pytest.raises(StorageError, match=TOLD):
        for step in range(2, 10_000):
            board.add({"time": 1.0, "step": step, "train/loss": 0.5})
