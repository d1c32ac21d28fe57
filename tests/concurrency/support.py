"""Holding threads at chosen points, so that a race has one outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from memquota import Tracker

R = TypeVar("R")

#: Longer than anything here takes, in seconds: who waits so long hangs.
PATIENCE = 30.0


def soon(truth: Callable[[], object]) -> None:
    """Wait until something is true."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if truth():
            return
        waiting.wait(0.001)
    raise AssertionError("it never became true")


class Point:
    """A place where a thread that comes by is held until it is let go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._go_on = threading.Event()

    def hold(self, *_: object) -> None:
        """Wait here. Whoever comes later passes."""
        if not self._reached.is_set():
            self._reached.set()
            assert self._go_on.wait(PATIENCE), "nobody let the thread go on"

    def await_arrival(self) -> None:
        assert self._reached.wait(PATIENCE), "no thread came to the point"

    def let_go(self) -> None:
        self._go_on.set()


class InThread(Generic[R]):
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[..., R], *args: Any) -> None:
        self._outcome: list[tuple[bool, Any]] = []
        self._function = function
        self._args = args
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append((True, self._function(*self._args)))
        except BaseException as error:
            self._outcome.append((False, error))

    def result(self) -> R:
        """What the function returned; raises what it raised."""
        self.thread.join(PATIENCE)
        assert self._outcome, "the thread hangs"
        succeeded, outcome = self._outcome[0]
        if not succeeded:
            raise outcome
        returned: R = outcome
        return returned


@contextmanager
def held(subject: Any, method: str, *, after: bool = False) -> Iterator[Point]:
    """Hold the first thread that calls a method of this very object, or module: before it does anything, or after."""
    point = Point()
    original = getattr(subject, method)
    its_own = method in vars(subject)

    def watched(*args: Any, **kwargs: Any) -> Any:
        if not after:
            point.hold()
        result = original(*args, **kwargs)
        if after:
            point.hold()
        return result

    setattr(subject, method, watched)
    try:
        yield point
    finally:
        if its_own:
            setattr(subject, method, original)
        else:
            delattr(subject, method)
        point.let_go()


class Insider(Point):
    """A thread that stands in the books of a tracker until it is let go on."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._thread = InThread(tracker._books.enter, self.hold)
        self.await_arrival()

    def leave(self) -> None:
        self.let_go()
        self._thread.result()


@contextmanager
def someone_inside(tracker: Tracker) -> Iterator[Insider]:
    """Another thread stands in the books until it is let go on, or the block ends."""
    insider = Insider(tracker)
    try:
        yield insider
    finally:
        insider.leave()
