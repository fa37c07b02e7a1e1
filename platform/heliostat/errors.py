"""Every error a user can meet, and the exit status that each one means.

HeliostatError                  1  failed; resuming would not help
├── UserError                   2  the job file, its data or the arguments are wrong
│   ├── SpecError                  the job or site file
│   ├── PlanError                  the file is well-formed, but its sums do not work
│   ├── UnavailableError           a part of the contract that is not built yet
│   └── DataError                  the data behind the job file
│       └── SettingError           written in another way than `data.read` says
├── TrainError                  1  training itself failed, by rank and step
├── ArtifactError               1  a stored file is damaged or of an unknown format
├── LaunchError                 1  a cluster lost what was sent to it
│   ├── ClusterRefusedError     2  it does not take it, now or later
│   └── ClusterUnavailableError 5  it does not take it now; sent again, it may
├── StoppedError                3  somebody asked the run to stop
├── UnknownOutcomeError         4  nobody can say how it ended
└── InterruptedRunError         5  `--resume` continues
    ├── PlacementError             the cluster cannot hold what the job asks for
    ├── ClusterLostError           a Ray cluster does not answer, or not any more
    ├── StorageError               a disk is full, or a store does not answer
    └── LeaseLostError             another process took the run over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SUCCEEDED, FAILED, WRONG_INPUT, STOPPED, UNKNOWN, INTERRUPTED = range(6)


class HeliostatError(Exception):
    """Base of all errors raised on purpose; `exit_status` is the command's, `go_on` the command
    that continues what ended early, where there is one.
    """

    exit_status = FAILED
    go_on = ""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and the nearest remedy."""

    place: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        sentence = f"{self.place}: {self.message}" if self.place else self.message
        return f"{sentence}; {self.hint}" if self.hint else sentence


def first_line(error: object) -> str:
    """The first line of an error's text that says something; its type if none does. Only a
    newline ends a line: a name may hold other separators.
    """
    lines = (line.strip() for line in str(error).split("\n"))
    return next((line for line in lines if line), type(error).__name__)


class UserError(HeliostatError):
    """What the user wrote, or pointed to, is wrong. Carries all problems at once."""

    exit_status = WRONG_INPUT

    def __init__(self, problems: str | Problem | Sequence[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SpecError(UserError):
    """The job file or the site file breaks its schema."""


class PlanError(UserError):
    """The job file is well-formed, but what it asks for cannot be done."""


class UnavailableError(UserError):
    """The job file asks for a part of heliostat that is not available yet."""


class DataError(UserError):
    """A file, a column or a value of the data is not what the job needs."""


class SettingError(DataError):
    """A file is written in another way than `data.read` says; `settings` are the keys of it that
    would read the file.
    """

    def __init__(
        self, problems: Problem | Sequence[Problem], settings: Mapping[str, object]
    ) -> None:
        super().__init__(problems)
        self.settings = settings


class TrainError(HeliostatError):
    """Training failed for a reason that resuming would meet again."""


class ArtifactError(HeliostatError):
    """A stored file is damaged, or written in a format this version cannot read."""


class LaunchError(HeliostatError):
    """A cluster refused a request, or could not be reached."""


class ClusterRefusedError(LaunchError):
    """A cluster does not take a request, now or later, as long as it stays what it is."""

    exit_status = WRONG_INPUT


class ClusterUnavailableError(LaunchError):
    """A cluster does not take a request now: a quota is used up, or nothing answers. Sent again,
    it may be taken.
    """

    exit_status = INTERRUPTED


class StoppedError(HeliostatError):
    """The run was asked to stop, and did, after a checkpoint."""

    exit_status = STOPPED


class UnknownOutcomeError(HeliostatError):
    """The outcome cannot be told from here; never taken for success."""

    exit_status = UNKNOWN


class InterruptedRunError(HeliostatError):
    """The run ended early for an outer reason; `--resume` continues it."""

    exit_status = INTERRUPTED


class PlacementError(InterruptedRunError):
    """The cluster cannot hold the workers; the sentence carries the sum."""


class ClusterLostError(InterruptedRunError):
    """A Ray cluster did not come up, does not answer, or has gone."""


class StorageError(InterruptedRunError):
    """Storage cannot be read or written; what was finished stays."""


class LeaseLostError(InterruptedRunError):
    """Another process holds this run now; this one stopped writing."""
