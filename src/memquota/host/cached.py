"""Any provider, asked only so often, and believed for a while after it fails."""

import os
import threading
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from memquota.clock import Clock, monotonic
from memquota.errors import UsageTypeError, UsageValueError
from memquota.host.readings import MemoryReading, Provider, ReadingUnavailable, checked_clock, checked_provider

READ_EVERY: Final = 0.1
"""A provider is asked at most this often, in seconds."""

HELD_FOR: Final = 5.0
"""The last good reading stands in for a failed one this long, in seconds."""

# A thread that finds another one reading, and has no reading to go by, waits this long. It ends:
# a signal handler may have interrupted that very read in its own thread.
_PATIENCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Known:
    """The last answers; replaced whole, so that it may be read without the lock."""

    asked: float
    """When the provider was asked last."""
    reading: MemoryReading | None
    """The last good reading."""
    good_at: float
    """When that was asked for; its own time may be of another clock."""
    failure: Exception | None
    """Why the last attempt failed; None: it did not."""

    def holds(self, now: float, held_for: float) -> bool:
        return self.reading is not None and 0 <= now - self.good_at <= held_for

    def answer(self, now: float, held_for: float) -> MemoryReading:
        if self.reading is not None and (self.failure is None or self.holds(now, held_for)):
            return self.reading
        raise ReadingUnavailable(f"no memory reading: {self.failure}") from self.failure


class CachedProvider:
    """A provider that asks another one at most every 100 ms, whoever and how many want to know.

    When the other one fails, the last good reading holds for 5 s (its `time` says how old it is);
    after that `read` raises until a reading succeeds again.

    Args:
        provider: Where the readings come from; closed with this one if it has `close`.
        clock: Times both intervals, and should be the clock of `provider`.
        every: The shortest time between two readings, in seconds.
        held_for: How long a reading may stand in for failed ones, in seconds.

    Raises:
        UsageError: A wrong argument; times must not be negative.

    Threads: may be used from any thread; `provider.read` is called by one at a time. A thread that
        finds another one reading takes the last reading instead of waiting. After a fork the child
        starts with a fresh lock.

    Cost: about 0.3 µs between readings.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        clock: Clock = monotonic,
        every: float = READ_EVERY,
        held_for: float = HELD_FOR,
    ) -> None:
        self._provider = checked_provider(provider)
        self._clock = checked_clock(clock)
        self._every = _checked_seconds(every, "every")
        self._held_for = _checked_seconds(held_for, "held_for")
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._closed = False
        _alive.add(self)

    @property
    def provider(self) -> Provider:
        """Where the readings come from."""
        return self._provider

    def read(self) -> MemoryReading:
        """The last reading, or a new one where that is older than 100 ms.

        Raises:
            ReadingUnavailable: The provider fails and the last good reading is older than 5 s, or
                this one is closed.
        """
        if self._closed:
            raise ReadingUnavailable("the provider is closed")
        now = self._clock()
        known = self._known
        if known is not None and 0 <= now - known.asked < self._every:
            return known.answer(now, self._held_for)
        holds = known is not None and known.holds(now, self._held_for)
        if not self._lock.acquire(timeout=0 if holds else _PATIENCE):
            if known is not None and holds:
                return known.answer(now, self._held_for)
            raise ReadingUnavailable("another thread has been reading for too long")
        try:
            if self._known is known:  # nobody else has read while this thread waited
                self._known = self._ask(now, known)
            known = self._known
        finally:
            self._lock.release()
        assert known is not None
        return known.answer(now, self._held_for)

    def _ask(self, now: float, known: _Known | None) -> _Known:
        # Lock: held; it serves no other purpose than to let one thread in here.
        try:
            return _Known(now, self._provider.read(), now, None)
        except Exception as failure:
            # Any failure of a provider is a failure to read, also one that is a fault in it:
            # readings never fail user work. Its traceback would keep frames alive.
            failure.__traceback__ = None
            if known is None:
                return _Known(now, None, now, failure)
            return _Known(now, known.reading, known.good_at, failure)

    def close(self) -> None:
        """Read no more and close the provider; may be called twice, and from any thread."""
        self._closed = True
        close = getattr(self._provider, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _checked_seconds(seconds: float, what: str) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UsageTypeError(f"{what} must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise UsageValueError(f"{what} must not be negative, nor {seconds!r} s")
    return float(seconds)


_alive: "weakref.WeakSet[CachedProvider]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The thread that held a lock does not exist here and would never give it back.
    for provider in list(_alive):
        provider._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
