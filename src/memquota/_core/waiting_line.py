"""Who is admitted next: what is inside a gate, who waits, in which order. Knows no lock, clock, books or wake-ups."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

from attrs import frozen
from sortedcontainers import SortedList

from memquota.errors import TrackerBroken, UsageValueError

from .limits import KEEP, LARGEST_SIZE, Keep

__all__ = ["OPEN", "Outside", "Ticket", "TicketState", "WaitingLine", "check_line"]


class TicketState(Enum):
    """Where its holder is."""

    NEW = "new"
    WAITING = "waiting"
    INSIDE = "inside"
    REFUSED = "refused"
    """It can never go in, as the gate is now."""
    GONE = "gone"


class Ticket:
    """A place in the line, and what its holder takes inside. Compared by identity.

    Args:
        weight: Bytes; 0 takes a slot only.
        priority: Larger goes first.
    """

    # No slots: what most tickets do not need stands in the class.
    weight: int
    priority = 0
    number = 0
    state = TicketState.NEW
    #: Bytes outside that were made free on its behalf: nobody else in the line may take them.
    reserved = 0
    #: Bytes that it holds in the books.
    booked = 0

    def __init__(self, weight: int, priority: int = 0) -> None:
        self.weight = weight
        if priority:
            self.priority = priority


@frozen
class Outside:
    """What the line has to know of the world beyond the gate.

    Attributes:
        closed: Why nobody is admitted; None: somebody may be.
        room: Bytes that may still be taken; None: as many as one likes.
        bound: A greater weight never finds room; None: there is none.
        stuck: Whether one may go in although it is closed, if nobody is inside: nothing else will change it.
    """

    closed: str | None = None
    room: int | None = None
    bound: int | None = None
    stuck: bool = False


OPEN: Final = Outside()


class WaitingLine:
    """The line before a gate: strictly by priority, then first come first served. Nobody overtakes.

    A weight above the capacity (or above `Outside.bound`) is oversized: it waits for its turn, then until nobody is
    inside, and runs alone; or it is refused.

    Args:
        capacity: Bytes that may be inside at once; None: any number.
        max_concurrent: How many may be inside at once; None: any number.
        refuse_oversized: Whether what is oversized is refused.

    Raises:
        UsageError: A limit is below 1 or above 2**62.
    """

    __slots__ = ("_arrived", "_order", "capacity", "held", "inside", "max_concurrent", "refuse_oversized", "reserved")

    def __init__(
        self, capacity: int | None = None, max_concurrent: int | None = None, *, refuse_oversized: bool = False
    ) -> None:
        _check_limits(capacity, max_concurrent)
        self.capacity = capacity
        self.max_concurrent = max_concurrent
        self.refuse_oversized = refuse_oversized
        # Invariant W1: how many went in and did not leave; never negative.
        self.inside = 0
        # Invariant W2: the sum of what they hold; never negative.
        self.held = 0
        # Invariant W3: the sum of what is reserved for those who wait.
        self.reserved = 0
        # Invariant W4: (-priority, number, ticket) of everybody who waits, each once, numbers in the order of arrival.
        self._order: SortedList[tuple[int, int, Ticket]] = SortedList()
        self._arrived = 0

    # --- looking ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Ticket]:
        """Everybody who waits, the next one first."""
        return (entry[2] for entry in self._order)

    @property
    def first(self) -> Ticket | None:
        """Who is next."""
        return self._order[0][2] if self._order else None

    def place(self, ticket: Ticket) -> int | None:
        """How many go before it, 0 for the next one; None when it does not wait. O(log n)."""
        if ticket.state is not TicketState.WAITING:
            return None
        return int(self._order.bisect_left((-ticket.priority, ticket.number, ticket)))

    def oversized(self, weight: int, bound: int | None) -> bool:
        """Whether so much can only run alone."""
        return (self.capacity is not None and weight > self.capacity) or (bound is not None and weight > bound)

    def fits(self, weight: int, outside: Outside, reserved: int = 0) -> bool:
        """Whether somebody with this weight may go in now, but for those who wait.

        Args:
            weight: Bytes.
            outside: The world beyond the gate.
            reserved: How much of what is reserved is its own.
        """
        if outside.closed is not None:
            return outside.stuck and not self.inside
        if self.max_concurrent is not None and self.inside >= self.max_concurrent:
            return False
        if self.oversized(weight, outside.bound):
            return not self.inside
        if self.capacity is not None and self.held + weight > self.capacity:
            return False
        return not weight or outside.room is None or weight + self.reserved - reserved <= outside.room

    # --- moves --------------------------------------------------------------------------------------------------------

    def enter(self, weight: int) -> None:
        """Somebody goes in: who asks has made sure that nobody waits and that it fits."""
        self.inside += 1
        self.held += weight

    def leave(self, weight: int) -> None:
        """Somebody who is inside and holds this much leaves."""
        self.inside -= 1
        self.held -= weight

    def adjust(self, weight: int, actual: int) -> None:
        """Somebody inside holds `actual` bytes, not `weight`. May pass the capacity: the memory is taken already."""
        self.held += actual - weight

    def arrive(self, ticket: Ticket) -> None:
        """Put a new ticket into the line. O(log n)."""
        assert ticket.state is TicketState.NEW
        self._arrived += 1
        ticket.number = self._arrived
        ticket.state = TicketState.WAITING
        self._order.add((-ticket.priority, ticket.number, ticket))

    def reserve(self, ticket: Ticket) -> None:
        """Keep what a waiting ticket needs for it: it had others make room."""
        if ticket.state is TicketState.WAITING:
            self.reserved += ticket.weight - ticket.reserved
            ticket.reserved = ticket.weight

    def admit(self, outside: Outside) -> Ticket | None:
        """Take the next one out of the line, if it is settled for it: it went in, or is refused. O(log n)."""
        ticket = self.first
        if ticket is None:
            return None
        if self.refuse_oversized and self.oversized(ticket.weight, outside.bound):
            self._remove(ticket, TicketState.REFUSED)
            return ticket
        if not self.fits(ticket.weight, outside, ticket.reserved):
            return None
        self._remove(ticket, TicketState.INSIDE)
        self.enter(ticket.weight)
        return ticket

    def give_up(self, ticket: Ticket) -> bool:
        """A waiting ticket leaves the line. False when it does not wait (any more): its fate is settled. O(log n)."""
        if ticket.state is not TicketState.WAITING:
            return False
        self._remove(ticket, TicketState.GONE)
        return True

    def back_out(self, ticket: Ticket) -> bool:
        """A ticket that went in leaves with all that it took in. False when it is not inside (any more)."""
        if ticket.state is not TicketState.INSIDE:
            return False
        ticket.state = TicketState.GONE
        self.leave(ticket.weight)
        return True

    def close(self) -> list[Ticket]:
        """Nobody is admitted any more: everybody who waits is refused, and returned in order."""
        waiting = list(self)
        for ticket in waiting:
            self._remove(ticket, TicketState.REFUSED)
        return waiting

    def resize(self, capacity: int | Keep | None = KEEP, max_concurrent: int | Keep | None = KEEP) -> None:
        """Replace limits. Who is inside stays.

        Raises:
            UsageError: A limit is below 1 or above 2**62; nothing was changed.
        """
        new_capacity = self.capacity if capacity is KEEP else capacity
        new_concurrent = self.max_concurrent if max_concurrent is KEEP else max_concurrent
        _check_limits(new_capacity, new_concurrent)
        # Commit.
        self.capacity = new_capacity
        self.max_concurrent = new_concurrent

    def _remove(self, ticket: Ticket, state: TicketState) -> None:
        self._order.remove((-ticket.priority, ticket.number, ticket))
        self.reserved -= ticket.reserved
        ticket.reserved = 0
        ticket.state = state


def check_line(line: WaitingLine, inside: list[int]) -> None:
    """Check every invariant of a line, given the weights of those inside; its specification. For tests.

    Raises:
        TrackerBroken: One does not hold.
    """

    def hold(truth: bool, invariant: str) -> None:
        if not truth:
            raise TrackerBroken(f"invariant {invariant} of a waiting line does not hold")

    waiting = list(line)
    hold(line.inside == len(inside), "W1 (who is inside is counted)")
    hold(line.held == sum(inside) >= 0, "W2 (what they hold is summed)")
    hold(line.reserved == sum(ticket.reserved for ticket in waiting), "W3 (what is reserved is summed)")
    keys = [(-ticket.priority, ticket.number) for ticket in waiting]
    hold(keys == sorted(set(keys)), "W4 (in order, each once)")
    hold(all(ticket.state is TicketState.WAITING for ticket in waiting), "W4 (who is in the line waits)")
    hold([line.place(ticket) for ticket in waiting] == list(range(len(waiting))), "W4 (places)")


def _check_limits(capacity: int | None, max_concurrent: int | None) -> None:
    for what, size in (("capacity", capacity), ("max_concurrent", max_concurrent)):
        if size is not None and not 1 <= size <= LARGEST_SIZE:
            raise UsageValueError(f"{what} of {size} is not between 1 and 2**62")
