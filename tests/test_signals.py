"""Signals are heard whatever the process is doing, and mean what they should."""

from __future__ import annotations

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
    assert (child.returncode, said) == (status, f"error: {told}\n")


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
