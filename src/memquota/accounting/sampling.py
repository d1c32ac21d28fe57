"""By how much each group grows, approximately and without a compiler: `tracemalloc` in sampling windows."""

from __future__ import annotations

import os
import threading
import tracemalloc
from typing import Final, Self, final

from attrs import frozen

from memquota import clock
from memquota._ticker import Ticker, checked_interval
from memquota.accounting import allocations
from memquota.errors import UsageTypeError, UsageValueError

__all__ = ["Sampled", "Sampling"]


@frozen
class Sampled:
    """What was seen of a group in windows.

    The difference of two is what was seen in between; the sum is that of several groups.

    Approximate:
        Net changes only, and only of windows; see `Sampling`. What lives of a group cannot be told from them.

    Attributes:
        grown_bytes: By how much memory grew in stretches in which it grew.
        shrunk_bytes: By how much it shrank in the others.
        stretches: How often the group was left, in a window.
    """

    grown_bytes: int = 0
    shrunk_bytes: int = 0
    stretches: int = 0

    @property
    def net_bytes(self) -> int:
        """By how much memory grew in all; below zero: it shrank."""
        return self.grown_bytes - self.shrunk_bytes

    def __add__(self, other: Sampled) -> Sampled:
        if not isinstance(other, Sampled):
            return NotImplemented
        return Sampled(
            self.grown_bytes + other.grown_bytes,
            self.shrunk_bytes + other.shrunk_bytes,
            self.stretches + other.stretches,
        )

    def __sub__(self, other: Sampled) -> Sampled:
        if not isinstance(other, Sampled):
            return NotImplemented
        return Sampled(
            self.grown_bytes - other.grown_bytes,
            self.shrunk_bytes - other.shrunk_bytes,
            self.stretches - other.stretches,
        )


class _Place(threading.local):
    """Which group this thread entered, and in which window: who entered one before that was not heard."""

    group: int = 0
    window: int = 0


@final
class Sampling:
    """Opens a window from time to time, in which `tracemalloc` counts.

    Whenever a thread turns from one group to another in a window, what memory has changed by since anybody last did
    goes to the group that it leaves. So the changes of all groups and of nobody add up to that of the process; but what
    other threads did meanwhile goes to the same group, frees count for the group that frees, a block from before the
    window is freed unseen, and what a group allocates and frees within one stretch is not seen at all. It shows which
    components grow, not what they have: that takes the exact source.

    Args:
        window: For how long one is open, in seconds.
        every: How long it is from one to the next, in seconds.

    Raises:
        UsageError: From `start`: a source is running already.

    Threads:
        Opens and closes windows in a daemon thread of its own. Any thread may start, stop and ask. A forked child has
        no such thread: nothing is sampled there.

    Cost:
        While a window is open, every allocation of the process, in groups or not, takes four to thirteen times as long
        (a program that compiles or parses takes two to five times as long), and turning to another group some nine
        microseconds; in between, nothing. With the default, windows are open for a hundredth of the time: 1 % to 4 %.
    """

    def __init__(self, *, window: float = 0.1, every: float = 10.0) -> None:
        self.every: Final = checked_interval(every)
        if isinstance(window, bool) or not isinstance(window, int | float):
            raise UsageTypeError(f"window must be a number of seconds, not {window!r}")
        if not 0 < window < every:
            raise UsageValueError(f"window must be above 0 and below every ({every:g} s), not {window!r} s")
        self.window: Final = float(window)
        self._lock = threading.Lock()  # starting and stopping
        self._ending = threading.Event()
        self._ticker: Ticker | None = None
        self._tracing = False
        self._place = _Place()
        self._windows = 0
        self._seconds = 0.0
        self._last = 0
        self._found: dict[int, list[int]] = {}

    @property
    def running(self) -> bool:
        """Whether windows are opened."""
        return self._ticker is not None and self._ticker.alive

    @property
    def windows(self) -> int:
        """How many were opened."""
        return self._windows

    @property
    def seconds(self) -> float:
        """For how long those were open that are closed by now."""
        return self._seconds

    def start(self) -> None:
        """Open the first window after `every` seconds less `window`; what was found before is kept."""
        with self._lock:
            allocations.claim_source()
            self._ending.clear()
            try:
                self._ticker = Ticker(self._sample, self.every - self.window, "memquota-sampling")
            except BaseException:
                allocations.release_source()
                raise
            _started.add(self)

    def stop(self) -> None:
        """Close the window that is open, and open no more. Nothing happens when it is not running."""
        with self._lock:
            if self._ticker is not None:
                self._ending.set()
                self._ticker.end()
                self._ticker = None
                _started.discard(self)
                allocations.release_source()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def statistics(self, group: int | allocations.Numbered) -> Sampled:
        """What was seen of a group so far; 0 is nobody.

        Raises:
            UsageError: It is no group.
        """
        return Sampled(*self._found.get(allocations.number_of(group), ()))

    def _sample(self) -> bool:
        """One window. Whether to go on."""
        if not tracemalloc.is_tracing():
            tracemalloc.start()
            self._tracing = True
        began = clock.monotonic()
        self._windows += 1
        self._last = tracemalloc.get_traced_memory()[0]
        allocations.enter = self._turn
        try:
            self._ending.wait(self.window)
        finally:
            self._seconds += clock.monotonic() - began
            self._close()
        return not self._ending.is_set()

    def _close(self) -> None:
        allocations.enter = None
        if self._tracing:
            tracemalloc.stop()
            self._tracing = False

    def _end_in_child(self) -> None:
        """After a fork: its thread is not there."""
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._ticker = None
        self._close()
        allocations.release_source()

    def _turn(self, group: int) -> int:
        """A thread turns to another group."""
        place = self._place
        left = place.group if place.window == self._windows else 0
        now = tracemalloc.get_traced_memory()[0]
        if now:  # else the window has been closed in this moment
            change, self._last = now - self._last, now
            found = self._found.get(left) or self._found.setdefault(left, [0, 0, 0])
            found[0 if change > 0 else 1] += abs(change)
            found[2] += 1
        place.group, place.window = group, self._windows
        return left


#: The one that is running.
_started: Final[set[Sampling]] = set()


def _after_fork_in_child() -> None:
    while _started:
        _started.pop()._end_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
