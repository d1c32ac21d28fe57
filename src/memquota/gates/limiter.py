"""PressureLimiter: backpressure that grows smoothly, instead of a door."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import Event, get_ident
from types import TracebackType
from typing import Any, Final, Self, cast, final

from anyio import sleep

from memquota._handles import Handle
from memquota._ticker import Ticker, checked_interval
from memquota.clock import monotonic
from memquota.errors import UsageTypeError, UsageValueError
from memquota.gates.readings import HELD_FOR, Provider
from memquota.tracker import Tracker

__all__ = ["PressureLimiter"]

#: Longer delays would be a door.
_LONGEST: Final = 60.0


@final
class PressureLimiter(Handle):
    """Delays its callers a little while memory is scarce: nothing up to the threshold, then more and more.

    At the threshold a call waits for `shortest`, at 100 % and above for `longest`, in between in proportion; never
    longer. What cannot be read any more for 5 s counts as no pressure.

    Args:
        source: A tracker, for the share of its limit that is in use; or a provider, such as `memquota.host.detect()`.
        threshold: The share above which calls are delayed, at least 0 and below 1.
        shortest: The least delay, in seconds.
        longest: The greatest delay, in seconds, at most 60.
        every: How often the source is read, in seconds.

    Raises:
        UsageError: A wrong argument.

    Threads:
        Any, and tasks of any loop. One background thread reads the source; `close`, leaving the with block, or dropping
        the limiter ends it. In a forked child the next call starts another one.

    Example:
        >>> tracker = memquota.Tracker("1MiB")
        >>> with memquota.PressureLimiter(tracker) as limiter:
        ...     limiter.wait_blocking()
        ...     limiter.delay
        0.0
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_every",
        "_failed_since",
        "_heirs",
        "_longest",
        "_read",
        "_share",
        "_shortest",
        "_threshold",
        "_ticker",
    )

    def __init__(
        self,
        source: Tracker | Provider,
        *,
        threshold: float = 0.95,
        shortest: float = 0.001,
        longest: float = 0.025,
        every: float = 0.1,
    ) -> None:
        self._read = _reader(source)
        for what, number in (("threshold", threshold), ("shortest", shortest), ("longest", longest)):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UsageTypeError(f"{what} must be a number, not {number!r}")
        if not 0 <= threshold < 1:
            raise UsageValueError(f"threshold must be at least 0 and below 1, not {threshold!r}")
        if not 0 <= shortest <= longest <= _LONGEST:
            raise UsageValueError(
                f"delays must go up from 0 to at most {_LONGEST:g} s, not from {shortest!r} to {longest!r}"
            )
        self._every = checked_interval(every)
        self._threshold = float(threshold)
        self._shortest = float(shortest)
        self._longest = float(longest)
        self._share = 0.0
        self._failed_since: float | None = None
        self._closed = False
        # Who starts another reader in place of one that ended; no lock, which a fork might leave held.
        self._heirs: dict[Ticker, int] = {}
        self._look()
        self._ticker = self._start()

    def _start(self) -> Ticker:
        # The thread does not keep the limiter: one that is dropped ends it.
        myself = weakref.ref(self)

        def look() -> bool:
            limiter = myself()
            return limiter is not None and limiter._look()

        return Ticker(look, self._every, "memquota pressure limiter")

    def _replace(self, reader: Ticker) -> None:
        """Start another reader, in one of those threads that notice that this one has ended."""
        me = get_ident()
        if self._heirs.setdefault(reader, me) != me:
            return
        try:
            if self._ticker is reader:
                self._look()
                self._ticker = self._start()
                if self._closed:  # meanwhile
                    self._ticker.tell_to_end()
        finally:
            del self._heirs[reader]

    def _look(self) -> bool:
        try:
            share = self._read()
            if not share >= 0.0:
                raise ValueError(f"a share of {share!r}")
        except Exception:
            # A source that fails never fails or delays work: after a while nothing is known, so nothing is scarce.
            now = monotonic()
            if self._failed_since is None:
                self._failed_since = now
            if now - self._failed_since > HELD_FOR:
                self._share = 0.0
        else:
            self._failed_since = None
            self._share = share
        return not self._closed

    @property
    def share(self) -> float:
        """The share in use, as read last."""
        reader = self._ticker
        if not self._closed and not reader.alive:  # in a forked child
            self._replace(reader)
        return self._share

    @property
    def delay(self) -> float:
        """How long a call waits now, in seconds."""
        share = self.share
        if share <= self._threshold or self._closed:
            return 0.0
        part = min(1.0, (share - self._threshold) / (1.0 - self._threshold))
        return self._shortest + (self._longest - self._shortest) * part

    async def wait(self) -> None:
        """Wait as long as memory asks for. Does not yield to the loop where that is not at all.

        Cancellation:
            Nothing is held.
        """
        delay = self.delay
        if delay:
            await sleep(delay)

    def wait_blocking(self) -> None:
        """As `wait`, for threads."""
        delay = self.delay
        if delay:
            Event().wait(delay)

    def close(self) -> None:
        """End the background thread; calls are not delayed any more. Does nothing the second time."""
        self._closed = True
        self._ticker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PressureLimiter at {self._share:.0%}, delays {self.delay * 1000:.1f} ms>"

    def __del__(self) -> None:
        ticker = getattr(self, "_ticker", None)
        if ticker is not None:
            ticker.tell_to_end()


def _reader(source: object) -> Callable[[], float]:
    """What reads the share of a source."""
    if isinstance(source, Tracker):
        tracker = source
        return lambda: tracker.used / tracker.limit
    read = getattr(source, "read", None)
    if not callable(read):
        raise UsageTypeError(f"a limiter reads a tracker or a provider, not {source!r}")
    reading = cast("Callable[[], Any]", read)
    return lambda: float(reading().fraction)
