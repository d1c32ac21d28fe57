"""What a gate sees of the world: the tracker's usage and rounds, and a provider's readings."""

from __future__ import annotations

from memquota._core.events import Event, GateClosed, GateOpened, ProviderFailed, ProviderRecovered
from memquota._core.waiting_line import OPEN, Outside
from memquota._rounds import Rounds
from memquota.account import Account
from memquota.gates.readings import Measure, Readings

__all__ = ["Outlook"]


class Outlook:
    """Whether the world lets anybody in, with hysteresis; tells of each change by an event.

    Args:
        account: The gate's.
        measure: When memory counts as short.
    """

    def __init__(self, account: Account, measure: Measure) -> None:
        self.rounds: Rounds = account._rounds
        self.books = self.rounds.books
        self.node = account._node
        self.root = self.books.ledger.root
        self.measure = measure
        self.readings = _readings_of(measure)
        # What was seen last.
        self._seen = OPEN
        self._failing = False

    def readings_by(self, measure: Measure) -> Readings | None:
        """What to go by if that is the measure: new readings where it has another provider."""
        return self.readings if measure.provider is self.measure.provider else _readings_of(measure)

    def go_by(self, measure: Measure, readings: Readings | None) -> None:
        """Go by another measure, which counts at once. Lock: of the gate. Takes no memory."""
        self.measure = measure
        self.readings = readings
        if readings is not None:
            readings.go_by(measure)

    @property
    def over(self) -> bool:
        """Whether the tracker was above its limit and did not come down to low water yet."""
        scope = self.root.scope
        assert scope is not None
        return scope.passed or scope.limits.over(self.root.used)  # another thread may be between the two

    @property
    def low_water(self) -> int:
        """Where a tracker that was above its limit lets in again."""
        assert self.root.scope is not None
        return self.root.scope.limits.low_water

    def look(self) -> Outside:
        """The world as of now. Lock: of the gate."""
        root = self.root
        assert root.scope is not None
        limits = root.scope.limits
        used = root.used
        closed, stuck = None, False
        if root.ended is not None:
            closed = "the tracker is closed"
        elif self.node.ended is not None:
            closed = "the gate's account is closed"
        elif self.rounds.round is not None:
            closed = "a round runs"
        elif self.over:
            closed = "the tracker was above its limit and is not down to low water yet"
        elif self.readings is not None and self.readings.short:
            closed, stuck = self.readings.why(), self.readings.stuck(self.books._last_time)
        ended = self.node.ended is not None
        seen = self._seen
        bound = limits.bound
        room = bound - used
        if (seen.closed, seen.room, seen.bound, seen.stuck, seen.ended) != (closed, room, bound, stuck, ended):
            found = Outside(closed, room, bound, stuck, ended)
            if (closed is None) != (seen.closed is None):
                now = self.books._last_time
                self._tell(
                    GateOpened(self.node.name, now) if closed is None else GateClosed(self.node.name, closed, now)
                )
            self._seen = seen = found
        return seen

    def refresh(self) -> bool:
        """Ask the provider if that is due. Whether something changed for those who wait.

        Lock: not held. Calls the provider.
        """
        readings = self.readings
        if readings is None:
            return False
        changed = readings.refresh(self.books.now())
        failing = readings.failure is not None
        if failing != self._failing:
            name, now = self.node.name, self.books._last_time
            if readings.failure is not None:
                self._tell(ProviderFailed(name, readings.failure, now))
            else:
                self._tell(ProviderRecovered(name, now))
            self._failing = failing
            self.books.deliver(moved=False)
        return changed

    def _tell(self, event: Event) -> None:
        # Subscribers and the log hear of it when somebody leaves the books, or when a move of the gate is over.
        self.books.ledger.events.append(event)


def _readings_of(measure: Measure) -> Readings | None:
    return Readings(measure.provider, measure) if measure.provider is not None else None
