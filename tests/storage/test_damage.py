"""One damaged file hides nothing else: logs, claims, states and names."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from heliostat.cli.main import cli
from heliostat.errors import ArtifactError, StorageError, UserError
from heliostat.storage.files import read_json, write_json
from heliostat.storage.lease import Lease, read_holder
from heliostat.storage.lines import Lines, read_lines
from heliostat.storage.promoted import read_promoted
from heliostat.storage.runs import Storage
from heliostat.storage.segments import Segments, read_rows
from heliostat.tune.ledger import Ledger
from heliostat.tune.work import FINISHED, Ended, Trial

ROWS = [{"i": i, "name": f"a{i}\u0085b\u2028c\x1cd\r"} for i in range(6)]
GARBAGE = st.one_of(
    st.just(b""), st.binary(max_size=20).map(lambda content: content.replace(b"\n", b"?")),
    st.sampled_from([b"[1]", b"null", b'"text"', b'{"i": ', b"[" * 100_000, b"\xff\xfe\x00"]),
)  # fmt: skip


def of(*rows: dict[str, object]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@given(
    cut=st.integers(0, len(of(*ROWS))),
    inserted=st.lists(st.tuples(st.integers(0, len(ROWS)), GARBAGE), max_size=4),
    doubled=st.lists(st.integers(0, len(ROWS) - 1), max_size=2),
)
def test_a_log_stays_readable_whatever_became_of_its_lines(
    tmp_path_factory, cut, inserted, doubled
):
    path = tmp_path_factory.mktemp("log") / "00000.jsonl"
    lines = [of(row)[:-1] for row in ROWS]
    for place in doubled:
        lines.append(lines[place])
    for place, garbage in inserted:
        lines.insert(place, garbage)
    path.write_bytes(b"\n".join(lines)[:cut])
    left = [line for line in path.read_bytes().split(b"\n") if line in map(of_line, ROWS)]
    expected = [json.loads(line) for line in dict.fromkeys(left)]
    notes: list[str] = []
    num_lines = len(path.read_bytes().rstrip(b"\n").split(b"\n")) if expected else 0
    found = list(read_rows(path.parent, notes.append))
    assert [row for row in found if row in ROWS] == expected
    assert len(found) == num_lines or notes or not expected
    # What is added begins on a line of its own.
    Lines(path).append(of({"i": 99}).decode())
    assert list(read_rows(path.parent, notes.append))[-1] == {"i": 99}
    assert all(str(path) in note and "line" in note for note in notes)


def of_line(row: dict[str, object]) -> bytes:
    return of(row)[:-1]


def test_skipped_lines_are_told_by_file_and_number(tmp_path):
    path = tmp_path / "00000.jsonl"
    path.write_bytes(of(ROWS[0]) + b"\n" + of(ROWS[0]) + b'{"i": 1, "na')
    notes: list[str] = []
    assert list(read_lines(path, notes.append, lambda row: "")) == [ROWS[0]]
    (note,) = notes
    assert note == (
        f"{path}: 3 of 4 lines are skipped: line 2 (empty), line 3 (a copy of an earlier line), "
        "line 4 (damaged or cut short)"
    )


def test_an_append_that_finds_no_room_leaves_no_part_of_itself(tmp_path, monkeypatch):
    import io

    path = tmp_path / "00000.jsonl"
    log = Lines(path)
    log.append("one\n")
    write, left = io.FileIO.write, [3, 0]

    class Full(io.FileIO):
        def write(self, content):  # type: ignore[no-untyped-def]
            if not left:
                return write(self, content)
            if not (room := left.pop(0)):
                raise OSError(28, "No space left on device")
            return write(self, bytes(content)[:room])

    real = Path.open
    monkeypatch.setattr(
        Path, "open",
        lambda self, mode, **more: Full(self, "ab") if mode == "ab" else real(self, mode, **more),
    )  # fmt: skip
    with pytest.raises(
        StorageError, match=r"No space left on device \([\d,]+ bytes free in .*resume"
    ):
        log.append("two\n")
    log.append("three\n")
    assert path.read_text() == "one\nthree\n"


def test_a_ledger_skips_foreign_rows_and_counts_copies_once(tmp_path):
    trial = Trial("t1", 0, {"x": 1})
    Ledger(tmp_path, "small/one").final(Ended(trial, FINISHED, 4, 0.5, {"auc": 0.5}, 2.0))
    path = tmp_path / "00000.jsonl"
    whole = path.read_bytes()
    foreign = [b'{"hello": 1}\n', b'{"kind": "final", "id": "t2"}\n', b'{"kind": ["x"]}\n']
    path.write_bytes(foreign[0] + whole + foreign[1] + whole + foreign[2] + whole[:25])
    notes: list[str] = []
    ledger = Ledger(tmp_path, "small/two", notes.append)
    assert set(ledger.records) == {"t1"} and ledger.records["t1"].score == 0.5
    assert "5 of 6 lines are skipped: line 1 (no row of a ledger)" in notes[0]
    assert "line 3 (no row of a ledger: `index`)" in notes[0]


def claimed(folder: Path, **fields: object) -> Path:
    Lease.acquire(folder)
    path = folder / "00001.json"
    write_json(path, read_json(path) | fields)
    return path


def test_a_damaged_claim_ends_when_no_heartbeat_mends_it(tmp_path, monkeypatch):
    path = claimed(tmp_path)
    path.write_bytes(b"")
    holder = read_holder(tmp_path)
    assert holder is not None and holder.alive and holder.pid is None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10)
    lease = Lease.acquire(tmp_path)
    assert lease is not None and lease.token == 2


def test_a_heartbeat_of_the_future_ends_with_what_the_storage_saw(tmp_path, monkeypatch):
    claimed(tmp_path, host="another-machine", heartbeat=time.time() + 10**6)
    holder = read_holder(tmp_path)
    assert holder is not None and holder.alive and Lease.acquire(tmp_path) is None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 60)
    assert not holder.alive and Lease.acquire(tmp_path) is not None


def test_two_machines_of_one_name_are_told_apart(tmp_path):
    """A process of the other one cannot be looked for here, but its heartbeat is heard."""
    claimed(tmp_path, machine="another boot", pid=2**22 + 1)
    holder = read_holder(tmp_path)
    assert holder is not None and holder.alive and Lease.acquire(tmp_path) is None


STATE = {"status": "FAILED", "attempt": 1, "labels": {"team": "a"}, "progress": 0.5}
DAMAGED = [b"", b"\x00\xff", b"[]", b'{"format": 1}', b'{"format": 1, "status": "BAKED"}',
           b'{"format": 1, "status": "FAILED", "labels": 3}', b"[" * 100_000]  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage.open(str(tmp_path / "s"))
    for name in ("one", "two"):
        folder = storage.run("small", name).path
        folder.mkdir(parents=True)
        write_json(folder / "identity.json", {"identity": "x", "fixed": {}, "job": {}})
        write_json(folder / "state.json", STATE)
        Segments(folder / "logs").append([{"time": 1.0, "line": "said\u2028so"}])
    return storage


def verb(storage: Storage, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*words, "--storage", str(storage.root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return getattr(done.exception, "exit_status", -1), str(done.exception)
    return done.exit_code, done.output


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_state_is_told_and_hides_no_other_run(storage, content):
    bad = storage.run("small", "two").path / "state.json"
    bad.write_bytes(content)
    status, told = verb(storage, "status")
    assert status == 0 and "small/one" in told and "FAILED" in told
    assert "UNKNOWN" in told and str(bad) in told
    assert verb(storage, "logs", "small/two") == (0, "said\u2028so\n")
    assert verb(storage, "clean")[0] == 0
    assert verb(storage, "status", "--label", "team=a")[1].count("small/") == 1
    assert "will commit a checkpoint and stop" in verb(storage, "stop", "small/two")[1]


def test_a_run_that_never_came_to_a_state_is_interrupted(storage):
    """As on a disk that was full before it began."""
    run = storage.run("small", "two")
    (run.path / "state.json").unlink()
    assert run.read_state()["status"] == "INTERRUPTED"
    lease = Lease.acquire(run.lease)
    assert lease is not None and run.read_state() == {"status": "PENDING"}
    lease.release()
    status, told = verb(storage, "status")
    assert status == 0 and told.count("small/") == 2 and "INTERRUPTED" in told


def test_foreign_files_are_no_runs(storage):
    runs = storage.root / "runs"
    (runs / "file").write_text("x")
    (runs / "small" / "notes.txt").write_text("x")
    (runs / "small" / "dir" / "state.json").mkdir(parents=True)
    (runs / "small" / "trials").mkdir()
    (runs / "x" / "y" / "z").mkdir(parents=True)
    (storage.root / "sent").mkdir()
    for name, content in enumerate(DAMAGED):
        (storage.root / "sent" / f"{name}.json").write_bytes(content)
    foreign = storage.prepared / "mine"
    foreign.mkdir(parents=True)
    (foreign / "manifest.json").write_text("{}")
    assert [run.run_id for run in storage.runs()] == ["one", "two"]
    assert verb(storage, "status")[1].count("small/") == 2
    assert verb(storage, "clean", "--older-than", "1s")[0] == 0 and foreign.exists()
    done = CliRunner().invoke(cli, ["clean", "--storage", str(storage.root.parent)])
    assert isinstance(done.exception, UserError) and "heliostat.json" in str(done.exception)


def test_a_result_of_another_form_is_no_success(storage):
    run = storage.run("small", "one")
    write_json(run.path / "state.json", STATE | {"status": "SUCCEEDED"})
    write_json(run.path / "result.json", {"hello": 1})
    assert run.read_state()["status"] == "UNKNOWN"


def test_a_damaged_name_of_a_model_is_told(storage):
    place = storage.root / "models" / "m" / "best.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(b'{"format": 1}')
    with pytest.raises(ArtifactError, match=r"best\.json: is not what heliostat writes there"):
        read_promoted(storage.root, "m@best")
    assert "known: m@best" in verb(storage, "status", "m@other")[1]
