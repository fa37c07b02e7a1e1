"""Checkpoints beside training: one at a time, in order, and no failure is lost."""

from __future__ import annotations

import threading

import pytest

from heliostat.errors import LeaseLostError
from heliostat.train.events import Committed
from heliostat.train.saver import Saver


class Slow:
    """Checkpoints that wait until they may be committed."""

    def __init__(self) -> None:
        self.may, self.saved = threading.Event(), []

    def save(self, step, best=False):
        def work():
            assert self.may.wait(10)
            if step == 13:
                raise LeaseLostError("another process has taken this run over")
            self.saved.append(step)
            return Committed(step, best)

        return work


def test_training_goes_on_while_a_checkpoint_is_written():
    slow = Slow()
    saver = Saver()
    saver.start(slow.save(1))
    assert saver.committed() == [] and slow.saved == []
    slow.may.set()
    saver.start(slow.save(2, best=True))  # waits for the one before
    assert 1 in slow.saved
    assert [(c.step, c.best) for c in saver.committed(wait=True)] == [(1, False), (2, True)]
    assert saver.committed(wait=True) == []


def test_what_keeps_a_checkpoint_from_being_committed_ends_training():
    slow = Slow()
    slow.may.set()
    saver = Saver()
    saver.start(slow.save(13))
    with pytest.raises(LeaseLostError, match="taken this run over"):
        saver.committed(wait=True)
    saver.start(slow.save(13))
    with pytest.raises(LeaseLostError):
        saver.start(slow.save(14))
