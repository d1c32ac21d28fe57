"""What a provider's readings mean for a gate: whether real memory runs short."""

from __future__ import annotations

from math import inf
from threading import get_ident
from typing import Final, Protocol

from attrs import Factory, field, frozen

__all__ = ["READ_EVERY", "Measure", "Provider", "Reading", "Readings"]

#: A provider is asked at most this often, in seconds of the tracker's clock.
READ_EVERY: Final = 0.1
#: The last good reading stands in for failed ones this long.
HELD_FOR: Final = 5.0
#: A gate that is shut by a reading that has not changed for this long lets one in if nobody is inside.
STUCK_AFTER: Final = 1.0
#: Changes within this share of the limit are none: some pages come and go in every second of every process.
_STILL: Final = 0.001


class Reading(Protocol):
    """What a gate looks at in a reading."""

    @property
    def fraction(self) -> float:
        """The share of the limit that is not available, between 0 and 1."""
        ...


class Provider(Protocol):
    """A source of readings of real memory, such as those of `memquota.host`.

    Callbacks:
        `read` is called by whoever acquires, waits, or asks for statistics, and while somebody waits by whoever claims
        or releases, in any thread, with no lock of ours held. It should take microseconds, and must not wait for a lock
        that somebody holds while claiming. Whatever exception it raises counts as "unknown now".
    """

    def read(self) -> Reading:
        """The state now.

        Raises:
            OSError: It cannot be told now.
        """
        ...


@frozen
class Measure:
    """When memory counts as short: what `Gate` was told about it."""

    provider: Provider | None
    high: float
    hysteresis: float
    #: Below it there is enough again.
    low: float = field(
        init=False, repr=False, default=Factory(lambda self: self.high - self.hysteresis, takes_self=True)
    )


class Readings:
    """The readings of one provider, asked at most every 100 ms, with hysteresis.

    `short` closes the gate above `high` and opens it below `high - hysteresis`. A failing provider leaves the last
    good reading valid for 5 s; then memory is not short, until readings return.

    Threads:
        Any. Several threads may ask at once where the provider is slower than 100 ms; a signal handler or finalizer
        that comes while its thread asks does not ask again.
    """

    def __init__(self, provider: Provider, measure: Measure) -> None:
        self.provider = provider
        self.measure = measure
        self.short = False
        self.fraction: float | None = None
        # Why the last attempt failed; None: it did not.
        self.failure: str | None = None
        self._asked = -inf
        self._good_at = -inf
        # The reading that those after it did not differ from, and when it came.
        self._still = inf
        self._changed_at = -inf
        # The threads that are asking.
        self._asking: set[int] = set()

    def go_by(self, measure: Measure) -> None:
        """Judge what was read last by another measure. Takes no memory."""
        self.measure = measure
        self._judge()

    def refresh(self, now: float) -> bool:
        """Ask again if that is due. Whether something changed for those who wait.

        Lock: not held. Calls the provider.
        """
        me = get_ident()
        if 0 <= now - self._asked < READ_EVERY or me in self._asking:
            return False
        before = self.short, self.failure is None
        try:
            self._asking.add(me)
            self._asked = now
            fraction = self.provider.read().fraction
            if not 0.0 <= fraction <= 1.0:
                raise ValueError(f"a fraction of {fraction!r}")
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            if now - self._good_at > HELD_FOR:
                self.fraction = None
                self.short = False
        else:
            self.failure = None
            self._good_at = now
            self.fraction = fraction
            if abs(fraction - self._still) > _STILL:
                self._still = fraction
                self._changed_at = now
            self._judge()
        finally:
            self._asking.discard(me)
        return before != (self.short, self.failure is None)

    def _judge(self) -> None:
        if self.fraction is None:
            return
        if self.fraction > self.measure.high:
            self.short = True
        elif self.fraction < self.measure.low:
            self.short = False

    def stuck(self, now: float) -> bool:
        """Whether memory is short and the readings have not changed for a while: waiting alone will not help."""
        return self.short and now - self._changed_at >= STUCK_AFTER

    def why(self) -> str:
        """Why the gate is shut, when it is."""
        assert self.fraction is not None
        high, low = self.measure.high, self.measure.low
        return f"the provider reads {self.fraction:.1%}: above {high:.1%}, or not yet below {low:.1%}"
