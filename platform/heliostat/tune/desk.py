"""The desk: hands out works, takes outcomes, and keeps decisions apart from the clock.

As they come, outcomes are told to the policy at once. In order (`lag` set), the policy makes the
decision after k works from the outcomes of the first k - lag of them, however late or early the
others come; where that gives no work, from one more, and so on. So the same search makes the same
decisions after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from heliostat.tune.policy import Policy
from heliostat.tune.work import Ended, Key, Outcome, Work


class Desk:
    """`known(work)` is what the ledger already holds of a work; `ended` hears how trials end."""

    def __init__(
        self,
        policy: Policy,
        known: Callable[[Work], Outcome | None],
        ended: Callable[[Ended], None],
        lag: int | None = None,
    ) -> None:
        self._policy, self._known, self._ended, self._lag = policy, known, ended, lag
        self._issued: list[Key] = []
        self._outcomes: dict[Key, Outcome] = {}
        self._num_told = 0
        self.is_closed = False

    def next(self) -> Work | None:
        """The work to begin now; None: not now, or, if the desk `is_closed`, no more."""
        while not self.is_closed:
            if self._lag is not None and not self._tell_first(len(self._issued) - self._lag):
                return None
            work = self._policy.next(self._num_told == len(self._issued))
            if work is None:
                if not self._when_idle():
                    return None
                continue
            self._issued.append(work.key)
            known = self._known(work)
            if known is None:
                return work
            self.take([known])
        return None

    def continuation(self, work: Work) -> Work | None:
        """The work that goes on with the same trial, if it is next."""
        return self.next() if self._policy.continues(work.trial) else None

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """Outcomes of works that came at once."""
        if self._lag is None:
            self._num_told += len(outcomes)
            self._tell(outcomes)
            return
        self._outcomes |= {outcome.work.key: outcome for outcome in outcomes}

    def _when_idle(self) -> bool:
        """There is no work by what was told: tell more, or close. Whether to look again."""
        if self._num_told == len(self._issued):
            self.is_closed = True
            for ended in self._policy.close():
                self._ended(ended)
            return False
        return self._lag is not None and self._tell_first(self._num_told + 1)

    def _tell_first(self, count: int) -> bool:
        """Tell the first `count` outcomes in the order of their works; False: one is not there."""
        while self._num_told < count:
            outcome = self._outcomes.pop(self._issued[self._num_told], None)
            if outcome is None:
                return False
            self._num_told += 1
            self._tell([outcome])
        return True

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for ended in self._policy.tell(outcomes):
            self._ended(ended)
