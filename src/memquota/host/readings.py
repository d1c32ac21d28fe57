"""What a source of memory readings says, and the contract of such a source."""

from dataclasses import dataclass, replace
from typing import Protocol, SupportsIndex, runtime_checkable

from memquota.clock import Clock, monotonic
from memquota.errors import UsageTypeError
from memquota.sizes import parse_size


class ReadingUnavailable(OSError):
    """How much memory there is cannot be told now; it is unknown, not 0.

    The next reading may succeed. Gates and limiters go on without readings until then.
    """


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """How much memory this process may use and how much of it is left, at one moment.

    Memory is limited at several levels at once (each control group above the process, and the
    machine). `limit` is the least hard limit of any of them; `available`, `used` and `level`
    belong to the level with the least room left, which need not be the one with the least limit.
    """

    limit: int
    """The effective limit in bytes; 0 is a limit."""
    used: int
    """The working set of `level` in bytes: what is in use, less inactive file pages."""
    available: int
    """What is left at `level` in bytes; never negative."""
    source: str
    """Where `level` was read: `"cgroup v2"`, `"cgroup v1"`, `"meminfo"`, `"psutil"`, ..."""
    level: str
    """The path of the control group that binds, or `"machine"`."""
    time: float
    """When it was read, in seconds of the provider's clock."""

    @property
    def fraction(self) -> float:
        """The share of the limit that is not available, between 0 and 1.

        It is not `used / limit`: those two may belong to different levels.
        """
        return 1.0 - min(self.available / self.limit, 1.0) if self.limit else 1.0


@dataclass(frozen=True, slots=True)
class Stall:
    """How much time was lost for want of memory."""

    avg10: float
    """Percent of the last 10 seconds."""
    avg60: float
    """Percent of the last minute."""
    avg300: float
    """Percent of the last 5 minutes."""
    total: float
    """Seconds altogether."""

    @property
    def fraction(self) -> float:
        """`avg10` as a share between 0 and 1: what gates and limiters look at."""
        return min(max(0.0, self.avg10 / 100), 1.0)


@dataclass(frozen=True, slots=True)
class PressureReading:
    """Pressure stall information of a control group or of the machine."""

    some: Stall
    """At least one task waited for memory."""
    full: Stall
    """All tasks that were not idle waited for memory."""
    level: str
    """The path of the control group, or `"machine"`."""


@runtime_checkable
class Provider(Protocol):
    """A source of memory readings; write your own where none here fits.

    Callbacks:
        `read` is called without a lock of ours held, from whatever thread or event loop wants to
        know; it should take microseconds. Wrap a provider that is slow, or that only one thread
        may use, in `CachedProvider`.
    """

    def read(self) -> MemoryReading:
        """The state now.

        Raises:
            ReadingUnavailable: It cannot be told now (any OSError is taken for that).
        """
        ...


def checked_provider(provider: Provider) -> Provider:
    """The argument, or UsageError where it is no provider."""
    if not callable(getattr(provider, "read", None)):
        raise UsageTypeError(f"a provider must have a method read, not {provider!r}")
    return provider


def checked_clock(clock: Clock) -> Clock:
    """The argument, or UsageError where it is no clock."""
    if not callable(clock):
        raise UsageTypeError(f"a clock must be callable, not {clock!r}")
    return clock


class FixedProvider:
    """A provider that says what it was told, for tests and for limits known from elsewhere.

    Args:
        limit: The limit; an `int` of bytes or text such as `"512MiB"`.
        used: What is in use.
        clock: Where the readings' time comes from.

    Raises:
        UsageError: A size is not understood, or the clock is none.

    Threads: may be used from any thread.
    """

    def __init__(
        self,
        limit: SupportsIndex | str,
        used: SupportsIndex | str = 0,
        *,
        clock: Clock = monotonic,
    ) -> None:
        self._clock = checked_clock(clock)
        self._failure: str | None = None
        self._reading = _fixed(parse_size(limit, what="limit"), parse_size(used, what="used"))

    def set(self, *, limit: SupportsIndex | str | None = None, used: SupportsIndex | str | None = None) -> None:
        """Change what is read from now on; what is None stays. It also ends a failure."""
        old = self._reading
        new_limit = old.limit if limit is None else parse_size(limit, what="limit")
        new_used = old.used if used is None else parse_size(used, what="used")
        self._reading, self._failure = _fixed(new_limit, new_used), None

    def fail(self, why: str = "set to fail") -> None:
        """Let every reading fail from now on."""
        self._failure = why

    def read(self) -> MemoryReading:
        """What it was told last."""
        if self._failure is not None:
            raise ReadingUnavailable(self._failure)
        return replace(self._reading, time=self._clock())


def _fixed(limit: int, used: int) -> MemoryReading:
    return MemoryReading(limit, used, max(0, limit - used), "fixed", "fixed", 0.0)
