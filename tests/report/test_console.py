"""What a person sees fits the terminal, whatever its size: nothing is cut, nothing is lost."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import termios

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from heliostat.errors import StoppedError
from heliostat.plan.plan import plan_job
from heliostat.plan.text import plan_text
from heliostat.report.console import Console, Terminal, duration_text
from heliostat.report.lines import as_typed, command_lines, wrapped
from heliostat.report.live import Activity, Leaderboard, StepBar, TrialTable, table_lines
from heliostat.report.overview import overview
from heliostat.report.result import Result
from heliostat.spec.load import load_job

SIZES = [(80, 24), (80, 45), (120, 45), (200, 50), (40, 10), (24, 6)]
few = settings(max_examples=40, deadline=None)
sizes = st.tuples(st.integers(16, 220), st.integers(6, 60))
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "C", "M")), min_size=1, max_size=12
)


class Screen(io.StringIO):
    """A file that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class AsciiScreen(Screen):
    encoding = "ascii"


def terminal(width: int, height: int, file: io.StringIO | None = None) -> Terminal:
    return Terminal(
        file or Screen(), width=width, height=height, force_terminal=True, color_system=None
    )


def drawn(renderable, width: int, height: int, file: io.StringIO | None = None) -> list[str]:
    screen = terminal(width, height, file)
    with screen.capture() as capture:
        screen.print(renderable)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


def fits(lines: list[str], width: int) -> bool:
    """No line is wider, unless it is one word that is."""
    return all(cell_len(line) <= width or len(line.split()) == 1 for line in lines)


@few
@given(st.lists(words, max_size=40), st.integers(1, 120), st.integers(0, 20))
def test_lines_break_between_words_alone(text, width, hang):
    lines = wrapped("  ".join(text), width, hang)
    assert [word for line in lines for word in line.split()] == text
    assert fits(lines, width)
    assert all(
        line.startswith(" " * min(hang, width // 3)) or cell_len(line) >= width - hang
        for line in lines[1:]
    )


@few
@given(st.lists(words | st.just("a folder/b"), min_size=1, max_size=12), st.integers(20, 120))
def test_a_command_is_the_same_when_it_is_copied(arguments, width):
    lines = command_lines(shlex.join(["heliostat", *arguments]), width)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == ["heliostat", *arguments]
    assert all(cell_len(line) <= width or len(shlex.split(line[:-1])) == 1 for line in lines)


def board(num_rows: int, num_trials: int, values: list[str]) -> Leaderboard:
    rows = [
        [
            str(i),
            "0.9039 ± 0.0016",
            "at rung 1",
            "3",
            "1:07",
            "  ".join(f"{k}{i}={v}" for k, v in zip("abc", values, strict=False)),
        ]
        for i in range(1, num_rows + 1)
    ]
    header = ["", "auc", "status", "epochs", "time", "config"]
    return Leaderboard(
        f"{num_rows} of {num_trials} trials, 2 running, eta 41s",
        header,
        rows,
        num_trials,
        num_trials - num_rows,
    )


@few
@given(sizes, st.integers(0, 30), st.integers(0, 30), st.lists(words, max_size=3))
def test_every_trial_is_shown_or_counted(size, num_rows, num_to_come, values):
    width, height = size
    lines = table_lines(board(num_rows, num_rows + num_to_come, values), width, height)
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    shown = [int(match[1]) for line in lines if (match := re.match(r"\s*(\d+)  0.9039", line))]
    assert shown == list(range(1, len(shown) + 1))
    told = re.search(r"and (\d+) more", " ".join(lines))
    assert len(shown) + int(told[1] if told else 0) == num_rows + num_to_come


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_sweep_of_twelve_trials_is_whole_where_there_is_room(width, height):
    table = board(12, 12, ["0.0203", "0.1000", "[64, 64]"])
    lines = drawn(TrialTable(lambda num_rows: table), width, height)
    assert len(lines) < height and fits(lines, width)
    shown = sum("0.9039" in line for line in lines)
    if (width, height) in SIZES[1:4]:
        assert shown == 12 and not lines[-1].startswith("and")
        assert "a12=0.0203  b12=0.1000  c12=[64, 64]" in lines[-1] or width == 80
    elif shown < 12:
        assert lines[-1] == f"and {12 - shown} more"
    plain = drawn(TrialTable(lambda num_rows: table), width, height, AsciiScreen())
    assert fits(plain, width) and "".join(plain).isascii()
    assert shown == 0 or any("0.9039 +- 0.0016" in line for line in plain)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_bar_has_all_that_a_step_tells(width, height):
    parts = ["loss 0.2688", "lr 1.0e-03", "grad 0.1234", "142,000 rows/s", "512.0 MiB"]
    for file in (Screen(), AsciiScreen()):
        lines = drawn(StepBar(348, 1386, parts, "eta 1:41"), width, height, file)
        assert fits(lines, width) and len(lines) <= 4
        assert "348/1386" in lines[0] and "eta 1:41" in " ".join(lines)
        assert all(part in " ".join(lines) for part in parts)
        assert (width < 40) or lines[0].startswith(("━", "-"))
    assert "".join(lines).isascii()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_an_activity_is_one_line(width, height):
    for file in (Screen(), AsciiScreen()):
        (line,) = drawn(Activity("starting Ray in this process"), width, height, file)
        assert cell_len(line) <= width and "starting Ray" in line


@pytest.mark.parametrize("width", [24, 40, 80, 120, 200])
def test_a_plan_hangs_and_cuts_no_word(width, make_job):
    text = plan_text(plan_job(load_job(make_job())))
    screen = Screen()
    Console(terminal=terminal(width, 24, screen)).block(text)
    lines = screen.getvalue().splitlines()
    assert " ".join(screen.getvalue().split()) == " ".join(text.split())
    assert fits(lines, width)
    assert (width <= 80) == any(line.startswith(" " * min(10, width // 3)) for line in lines)


def state(run: str, **more) -> dict:
    score = {"split": "test", "metric": "auc", "value": 0.905512345}
    return {
        "run": run,
        "status": "SUCCEEDED",
        "progress": 1.0,
        "score": score,
        "started": 1.8e9,
        "seconds": 187.2,
    } | more


STATES = [
    state("late-flights/20261127-070826-05b2"),
    state("a-name-of-thirty-letters-in-all/20261127-070826-05b2", status="RUNNING", progress=0.4, eta_seconds=41.0),
    state("old/1", score=None, started=None, seconds=None, status="INTERRUPTED", error="its process is gone; " * 9 + "\nat x"),
]  # fmt: skip


@pytest.mark.parametrize("width", [None, 24, 40, 80, 120, 200])
def test_an_overview_shows_every_run(width):
    lines = overview(STATES, width)
    text = " ".join(" ".join(lines).split())
    assert all(name in text for name in ("RUN", "STATUS", "DONE", "SCORE", "STARTED", "TOOK"))
    for item in STATES:
        assert item["run"] in text and item["status"] in text
    assert "test auc 0.9055" in text and "3:07" in text and "eta 41s" in text
    assert text.count("its process is gone;") == 9 and "at x" not in text
    if width is None:
        assert len(lines) == 1 + len(STATES)
    else:
        assert fits(lines, width)


def test_off_a_terminal_lines_are_whole_and_plain(capsys):
    kept: list[str] = []
    console = Console(log=kept.append)
    console.line("a line  of many words " * 20)
    console.doing("starting Ray in this process")
    console.doing("starting Ray in this process", "40 of 80 rows")
    console.step(1, 2, ["loss 0.1", "lr 1e-3"], "eta 4s")
    console.show(TrialTable(lambda num_rows: board(1, 2, [])))
    console.command(
        "heliostat report late-flights/20261127-070826-05b2 --storage a/folder/somewhere"
    )
    console.rest()
    said = capsys.readouterr().err.splitlines()
    assert said[:-1] == kept and len(said) == 4
    assert said[1:3] == ["starting Ray in this process", "step 1/2  loss 0.1  lr 1e-3  eta 4s"]
    assert "\x1b" not in "".join(said)


def test_a_stop_is_no_error_and_says_how_to_go_on(monkeypatch, capsys):
    from heliostat.cli import main

    def stop(*_: object, **__: object) -> None:
        error = StoppedError("stopped at step 30")
        error.go_on = "heliostat run a/job.yaml --resume a/b"
        raise error

    monkeypatch.setattr(main.cli, "main", stop)
    assert main._status_of(["run"]) == 3
    told = capsys.readouterr().err
    assert told == "stopped at step 30\nto continue\n  heliostat run a/job.yaml --resume a/b\n"


def test_a_command_is_named_as_it_can_be_typed(monkeypatch, tmp_path):
    (tmp_path / "heliostat").touch(0o755)
    monkeypatch.setattr(sys, "argv", [".venv/bin/heliostat", "run"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_typed("heliostat status") == "heliostat status"
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert as_typed("heliostat status") == ".venv/bin/heliostat status"


def test_a_headline_rounds_and_names_its_split():
    metrics = {"validation": {"auc": 0.51}, "test": {"auc": 0.9078332892533696}}
    fields = dict.fromkeys(
        ("name", "run", "best", "rows", "cleaning", "seconds", "hours", "versions", "digests")
    )
    result = Result(**fields, objective={"metric": "auc"}, metrics=metrics)
    assert result.headline == "test auc 0.9078"


def test_durations_carry():
    assert [duration_text(s) for s in (0.4, 59.4, 59.7, 3599.6, 7201)] == [
        "0s",
        "59s",
        "1:00",
        "1:00:00",
        "2:00:01",
    ]


def test_a_sweep_on_a_terminal(make_job, tmp_path, ray_head):
    """stderr is a terminal of 80 x 24, stdout a file: every trial is in the last table, the cursor
    was never hidden, and stdout has one line."""
    tune = "tune:\n  trials: 4\n  space: {model.max_depth: [1, 2, 3], model.learning_rate: {low: 0.1, high: 0.5}}"
    job = make_job(tune=tune, train="train: {rounds: 3}")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    environment = os.environ | {
        "RAY_ADDRESS": ray_head.address,
        "TERM": "xterm-256color",
        "NO_COLOR": "1",
    }
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "heliostat", "run", str(job), "--set", f"storage={tmp_path}/s"],
        env=environment, stdin=slave, stderr=slave, stdout=subprocess.PIPE,
    )  # fmt: skip
    os.close(slave)
    seen = bytearray()
    try:
        while piece := _read(master):
            seen += piece
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(master)
    assert process.stdout is not None
    (line,) = process.stdout.read().decode().splitlines()
    assert re.fullmatch(r"small/\S+  test auc 0\.\d{4}", line)
    told = seen.decode()
    assert "\x1b[?25l" not in told and not re.search(r"\x1b\[[0-9;]*3\d", told)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told).replace("\r", "\n").split("\n")
    assert any("joining the Ray cluster" in line for line in lines) and fits(lines, 80)
    last = max(i for i, line in enumerate(lines) if line.startswith("4 of 4 trials"))
    assert sum("max_depth=" in line and "finished" in line for line in lines[last:]) == 4
    assert "next" in lines and any("heliostat promote small/" in line for line in lines)
    state = json.loads(next((tmp_path / "s" / "runs" / "small").glob("*/state.json")).read_text())
    assert state["score"]["split"] == "test" and state["seconds"] > 0


def _read(descriptor: int) -> bytes:
    """What a terminal's process has said; nothing once it has ended."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
