"""Clocks that stand still unless somebody computes, so that what a group gets is exact."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from memquota import clock
from memquota.accounting import _steps
from memquota.accounting.groups import Group

#: Nanoseconds in a second.
SECOND = 10**9


class StepClock:
    """Takes the place of both clocks: all real time is computed, except what `wait` lets pass."""

    def __init__(self) -> None:
        self.computed = 1_000 * SECOND
        self.waited = 0
        self.readings = 0

    def cpu(self) -> int:
        self.readings += 1
        return self.computed

    def real(self) -> int:
        return self.computed + self.waited

    def compute(self, seconds: float) -> None:
        """The running thread computes."""
        self.computed += round(seconds * SECOND)

    def wait(self, seconds: float) -> None:
        """It waits."""
        self.waited += round(seconds * SECOND)


@contextmanager
def standing_clock() -> Iterator[StepClock]:
    """Both clocks are replaced, and the thread starts anew, with nothing entered."""
    standing = StepClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_steps, "cpu", standing.cpu)
        patch.setattr(_steps, "real", standing.real)
        patch.setattr(clock, "clock_of_this_thread", lambda: standing.cpu)
        forget_thread()
        try:
            yield standing
        finally:
            forget_thread()


def forget_thread() -> None:
    """The calling thread is in no group, whatever it was in."""
    for name in ("state", "life"):
        if hasattr(_steps._local, name):
            delattr(_steps._local, name)


def seconds(group: Group) -> float:
    """What a group used so far."""
    used = group.statistics().cpu_seconds
    assert used is not None
    return used


def inside() -> list[str]:
    """The names of what the calling thread is in, innermost first."""
    names = []
    frame = _steps.this_thread().top
    while frame is not None:
        names.append(frame.group.name)
        frame = frame.below
    return names
