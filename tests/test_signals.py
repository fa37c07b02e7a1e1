"""Signals are heard whatever the process is doing, and mean what they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import PATIENCE_SECONDS

# A mutex that is locked twice: a call into C that no signal ends.
CHILD = """
import ctypes, signal, sys
from heliostat.cli.main import end_process
from heliostat.signals import Signals, handlers_kept

with Signals(end_process).caught():
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a library does, here from Python
        library = ctypes.CDLL(None)
        library.signal(signal.SIGINT, None)  # and here from C
    print("ready", flush=True)
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGTERM, 5, "terminated by SIGTERM"),
        (signal.SIGHUP, 5, "terminated by SIGHUP"),
        (signal.SIGINT, 3, "stopped by Ctrl-C"),
    ],
)
def test_a_signal_is_heard_inside_a_call_that_never_returns(number, status, told):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    _, said = child.communicate(timeout=PATIENCE_SECONDS)
    assert (child.returncode, said.removeprefix("error: ")) == (status, f"{told}\n")


def test_what_was_ignored_from_the_start_stays_ignored():
    code = (
        "import signal; from heliostat.signals import Signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with Signals().caught() as caught:\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    assert not caught.requested\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS)


# Its terminal is closed while it writes; SIGHUP is ignored, as under nohup.
WITHOUT_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from rich.console import Console
from heliostat.cli.lasting import outlive_readers
outlive_readers()
tell, gone = map(int, sys.argv[1:])
os.write(tell, b"up")
os.read(gone, 1)  # until the terminal is gone
for _ in range(3):
    Console(file=sys.stderr).print("somebody?")
    print("nobody", flush=True)
    os.write(2, b"from C")
os.write(tell, b"on")
"""


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_process_outlives_its_terminal_and_its_pipe(kind):
    reading, writing = os.openpty() if kind == "terminal" else os.pipe()
    (told, tell), (gone, go) = os.pipe(), os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TERMINAL, str(tell), str(gone)],
        stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, pass_fds=(tell, gone),
        start_new_session=True,
    )  # fmt: skip
    os.close(writing), os.close(tell), os.close(gone)
    assert os.read(told, 2) == b"up"
    os.close(reading)
    os.write(go, b"x")
    assert os.read(told, 2) == b"on"
    assert child.wait(PATIENCE_SECONDS) == 0
