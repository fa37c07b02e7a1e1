"""`heliostat VERB ...`: verbs by name, errors in a sentence, the exit status of the contract."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any, NoReturn

import click

from heliostat.cli.examples import examples_of
from heliostat.cli.lasting import open_streams, outlive_readers
from heliostat.errors import FAILED, SUCCEEDED, WRONG_INPUT, HeliostatError, StoppedError, UserError
from heliostat.processes import kill_workers
from heliostat.signals import Signals
from heliostat.storage.files import NO_ROOM, finite

LAST_WORDS_SECONDS = 2.0
RUNNING = ("run", "prepare")  # they end by a signal with an exit status of their own
SIGNALS = "heliostat.signals"
VERBS = {
    "init": "looks at a data set and prints a commented job file for it",
    "plan": "everything that can be checked before a worker starts",
    "prepare": "only the data phase",
    "run": "runs a job in this process's Ray",
    "submit": "sends a job to a cluster of the site file",
    "render": "exactly what `submit` would send",
    "status": "one run or all, also after the cluster is gone",
    "logs": "what a run said",
    "stop": "asks a run to stop after a checkpoint",
    "report": "writes a run's page again",
    "evaluate": "scores a run's model on other data",
    "predict": "batch inference with a run's model",
    "export": "the model for elsewhere",
    "promote": "gives a run's model a name",
    "clean": "removes old prepared copies, checkpoints and leftovers",
    "schema": "JSON Schema of the job file",
}


class Verbs(click.Group):
    """Finds `heliostat.cli.VERB` when VERB is called, so that no verb pays for another."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of their use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command behind a verb."""
        if cmd_name not in VERBS:
            return None
        if cmd_name in RUNNING:  # before anything is loaded, which takes a while
            ctx.meta[SIGNALS] = ctx.with_resource(Signals(end_process).caught())
        command: click.Command = importlib.import_module(f"heliostat.cli.{cmd_name}").command
        command.epilog = examples_of(cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs' one-line descriptions, without loading any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="heliostat")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Distributed training and hyper-parameter tuning on Ray, from one job file."""
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit with its status."""
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name that the terminal has no letters for
    words = sys.argv[1:] if arguments is None else arguments
    if not {"logs", "--wait"} & set(words):  # what follows a run ends with who reads
        outlive_readers()
    status = _status_of(arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            status = status or _unwritten(error)
    # Taking the interpreter down with Ray, pandas and their threads loaded takes a second in
    # which nothing of ours is left to do: Ray is shut down and every file is published.
    os._exit(status)


def _unwritten(error: OSError) -> int:
    """The exit status where what a verb says could not be written."""
    if error.errno == errno.EPIPE:
        return SUCCEEDED  # who reads has had enough
    with suppress(OSError):
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr, flush=True)
    return FAILED


def _status_of(arguments: list[str] | None) -> int:
    """Run the verb; its exit status, with errors told on stderr."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv)
    try:
        os.getcwd()
    except FileNotFoundError:
        _tell(UserError("the working directory is gone; change into one that exists"))
        return WRONG_INPUT
    try:
        result = cli.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return int(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        return WRONG_INPUT
    except click.Abort:
        return 130
    except SystemExit:  # click's answer to a pipe that nobody reads
        return SUCCEEDED
    except HeliostatError as error:
        if debug:
            traceback.print_exc()
        _tell(error)
        return error.exit_status
    except Exception as error:
        # A bug of ours, or of a library: one sentence, and the way to see the rest.
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
            return _unwritten(error)
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        print("hint: `heliostat --debug ...` shows where", file=sys.stderr)
        return FAILED
    return result if isinstance(result, int) else SUCCEEDED


def end_process(error: HeliostatError) -> NoReturn:
    """Tell an error and end with its status, from any thread; also where nobody reads any more."""
    telling = threading.Thread(target=_tell, args=(error,), daemon=True)
    telling.start()
    telling.join(LAST_WORDS_SECONDS)
    kill_workers()
    os._exit(error.exit_status)


def _tell(error: HeliostatError) -> None:
    problems = error.problems if isinstance(error, UserError) else (error,)
    label = "" if isinstance(error, StoppedError) else "error: "  # somebody asked for a stop
    from heliostat.report.console import Console  # rich: a tenth of a second

    console = Console()
    for problem in problems:
        console.block(f"{label}{problem}", hang=2)
    if error.go_on:
        console.line("to continue")
        console.command(error.go_on)


def print_json(value: Any) -> None:
    """A verb's value on stdout; a number that is not finite is null, which JSON has words for."""
    print(json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))
