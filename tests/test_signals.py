"""Signals are heard whatever the process is doing, and mean what they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

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
    _, said = child.communicate(timeout=60)
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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Its terminal is closed while it writes; SIGHUP is ignored, as under nohup.
WITHOUT_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from rich.console import Console
from heliostat.cli.lasting import outlive_readers
outlive_readers()
os.write(3, b"up")
os.read(4, 1)  # until the terminal is gone
for _ in range(3):
    Console(file=sys.stderr).print("somebody?")
    print("nobody", flush=True)
    os.write(2, b"from C")
os.write(3, b"on")
"""


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_process_outlives_its_terminal_and_its_pipe(kind):
    reading, writing = os.openpty() if kind == "terminal" else os.pipe()
    (told, tell), (gone, go) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        for source, number in ((writing, 1), (writing, 2), (tell, 3), (gone, 4)):
            os.dup2(source, number + 20)
        for number in (1, 2, 3, 4):
            os.dup2(number + 20, number)
        os.closerange(5, 64)
        os.execv(sys.executable, [sys.executable, "-c", WITHOUT_TERMINAL])
    os.close(writing), os.close(tell)
    assert os.read(told, 2) == b"up"
    os.close(reading)
    os.write(go, b"x")
    assert os.read(told, 2) == b"on"
    assert os.waitpid(child, 0)[1] == 0
