"""Who is admitted next: what is inside a gate, who waits, in which order. Knows no lock, clock, books or wake-ups.

Each move computes first and changes things in one go after that, without a call in between: so no signal handler comes
between, and what one raises finds everything changed or nothing. What may take memory comes first: a number, or an
attribute that a ticket did not have before. Attributes of the line are slots, which take none.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

from attrs import frozen

from memquota.errors import TrackerBroken, UsageValueError

from .limits import KEEP, LARGEST_SIZE, Keep

__all__ = ["OPEN", "Outside", "Ticket", "TicketState", "WaitingLine", "check_line"]

#: Entries of the heap whose tickets left the line; more than this and as many as wait are thrown away.
_STALE: Final = 16


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
    #: Given to it when it arrives.
    number: int
    state = TicketState.NEW
    #: Bytes outside that were made free on its behalf: nobody else in the line may take them.
    reserved = 0
    #: Bytes that it was let in with and that are not in the books yet.
    promised = 0
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
        room: Bytes that are not in the books; None: as many as one likes.
        bound: A greater weight never finds room; None: there is none.
        stuck: Whether one may go in although it is closed, if nobody is inside and there is room: nothing else will
            change it.
        ended: Whether nobody will ever be admitted again: who waits is refused.
    """

    closed: str | None = None
    room: int | None = None
    bound: int | None = None
    stuck: bool = False
    ended: bool = False


OPEN: Final = Outside()

# Looking up a member of an enumeration is a call, and may take memory.
_NEW: Final = TicketState.NEW
_WAITING: Final = TicketState.WAITING
_INSIDE: Final = TicketState.INSIDE
_REFUSED: Final = TicketState.REFUSED
_GONE: Final = TicketState.GONE

T = TypeVar("T", bound=Ticket)


class WaitingLine(Generic[T]):
    """The line before a gate: strictly by priority, then first come first served. Nobody overtakes.

    A weight above the capacity (or above `Outside.bound`) is oversized: it waits for its turn, then until nobody is
    inside, and runs alone; or it is refused. One above the capacity alone waits for room outside like everybody else.

    Args:
        capacity: Bytes that may be inside at once; None: any number.
        max_concurrent: How many may be inside at once; None: any number.
        refuse_oversized: Whether what is oversized is refused.

    Raises:
        UsageError: A limit is below 1 or above 2**62.
    """

    __slots__ = (
        "_arrived",
        "_heap",
        "_tickets",
        "capacity",
        "held",
        "inside",
        "max_concurrent",
        "promised",
        "refuse_oversized",
        "reserved",
    )

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
        # Invariant W5: the sum of what is promised to those inside.
        self.promised = 0
        # Invariant W4: everybody who waits, by a number in the order of arrival; each has an entry (-priority, number)
        # in the heap. Entries of those who left stay until they come to the top, or are too many.
        self._tickets: dict[int, T] = {}
        self._heap: list[tuple[int, int]] = []
        self._arrived = 0

    # --- looking ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[T]:
        """Everybody who waits, the next one first. O(n log n)."""
        tickets = self._tickets
        return (tickets[number] for _, number in sorted(self._heap) if number in tickets)

    @property
    def first(self) -> T | None:
        """Who is next."""
        heap = self._heap
        while heap:
            ticket = self._tickets.get(heap[0][1])
            if ticket is not None:
                return ticket
            heappop(heap)
        return None

    def place(self, ticket: T) -> int | None:
        """How many go before it, 0 for the next one; None when it does not wait. O(n)."""
        if ticket.state is not _WAITING:
            return None
        mine = -ticket.priority, ticket.number
        return sum((-other.priority, other.number) < mine for other in self._tickets.values())

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
        if outside.ended:
            return False
        if outside.closed is not None and (self.inside or not outside.stuck):
            return False
        if self.max_concurrent is not None and self.inside >= self.max_concurrent:
            return False
        if outside.bound is not None and self.promised > outside.bound:  # of somebody who runs alone
            return False
        if self.oversized(weight, outside.bound):
            if self.inside:
                return False
            if outside.bound is not None and weight > outside.bound:  # there will never be room for it
                return True
        elif self.capacity is not None and self.held + weight > self.capacity:
            return False
        return not weight or outside.room is None or weight + self.promised + self.reserved - reserved <= outside.room

    # --- moves --------------------------------------------------------------------------------------------------------

    def arrive(self, ticket: T) -> None:
        """Put a new ticket into the line. O(log n)."""
        assert ticket.state is _NEW
        if len(self._heap) > 2 * len(self._tickets) + _STALE:
            heap = [entry for entry in self._heap if entry[1] in self._tickets]
            heapify(heap)
            self._heap = heap
        # Never used twice, whatever comes between: its entry may stay behind in the heap.
        self._arrived = number = self._arrived + 1
        heappush(self._heap, (-ticket.priority, number))
        ticket.number = number
        # Commit.
        self._tickets[number] = ticket
        ticket.state = _WAITING

    def reserve(self, ticket: T) -> None:
        """Keep what a waiting ticket needs for it: it had others make room."""
        if ticket.state is _WAITING:
            reserved = self.reserved + ticket.weight - ticket.reserved
            # Commit. A ticket's own place takes memory where it is new; those of the line take none.
            ticket.reserved = ticket.weight
            self.reserved = reserved

    def release_reserved(self) -> None:
        """Keep nothing for anybody: what others made free is for whoever is next."""
        for ticket in self._tickets.values():
            reserved = self.reserved - ticket.reserved
            # Commit, one ticket at a time.
            self.reserved = reserved
            ticket.reserved = 0

    def enter(self, ticket: T) -> None:
        """A new ticket goes in: who asks has made sure that nobody waits and that it fits."""
        weight = ticket.weight
        inside, held, promised = self.inside + 1, self.held + weight, self.promised + weight
        ticket.promised = weight
        # Commit.
        self.inside = inside
        self.held = held
        self.promised = promised
        ticket.state = _INSIDE

    def admit(self, outside: Outside) -> T | None:
        """Take the next one out of the line, if it is settled for it: it went in, or is refused. O(log n)."""
        ticket = self.first
        if ticket is None:
            return None
        if outside.ended or (self.refuse_oversized and self.oversized(ticket.weight, outside.bound)):
            self._remove(ticket, _REFUSED)
            return ticket
        if not self.fits(ticket.weight, outside, ticket.reserved):
            return None
        weight = ticket.weight
        inside, held, promised = self.inside + 1, self.held + weight, self.promised + weight
        reserved = self.reserved - ticket.reserved
        ticket.promised = weight
        # Commit.
        del self._tickets[ticket.number]
        self.reserved = reserved
        if ticket.reserved:
            ticket.reserved = 0
        self.inside = inside
        self.held = held
        self.promised = promised
        ticket.state = _INSIDE
        return ticket

    def booked(self, ticket: T) -> None:
        """What was promised to a ticket is in the books now."""
        promised = self.promised - ticket.promised
        # Commit.
        self.promised = promised
        ticket.promised = 0

    def adjust(self, ticket: T, actual: int) -> bool:
        """A ticket that is inside holds `actual` bytes from now on. False when it is not inside (any more).

        May pass the capacity: the memory is taken already.
        """
        if ticket.state is not _INSIDE:
            return False
        held = self.held + actual - ticket.weight
        # Commit.
        self.held = held
        ticket.weight = actual
        return True

    def give_up(self, ticket: T) -> bool:
        """A waiting ticket leaves the line. False when it does not wait (any more): its fate is settled."""
        if ticket.state is not _WAITING:
            return False
        self._remove(ticket, _GONE)
        return True

    def refuse(self, ticket: T) -> bool:
        """A waiting ticket can never go in. False when it does not wait (any more)."""
        if ticket.state is not TicketState.WAITING:
            return False
        self._remove(ticket, TicketState.REFUSED)
        return True

    def back_out(self, ticket: T) -> bool:
        """A ticket that went in leaves with all that it took in. False when it is not inside (any more)."""
        if ticket.state is not _INSIDE:
            return False
        inside, held, promised = self.inside - 1, self.held - ticket.weight, self.promised - ticket.promised
        # Commit.
        self.inside = inside
        self.held = held
        self.promised = promised
        ticket.promised = 0
        ticket.state = _GONE
        return True

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

    def _remove(self, ticket: T, state: TicketState) -> None:
        reserved = self.reserved - ticket.reserved
        # Commit.
        del self._tickets[ticket.number]
        self.reserved = reserved
        if ticket.reserved:
            ticket.reserved = 0
        ticket.state = state


def check_line(line: WaitingLine[T], inside: list[int], promised: int = 0) -> None:
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
    hold(len(waiting) == len(line), "W4 (each has an entry)")
    hold(all(ticket.state is _WAITING for ticket in waiting), "W4 (who is in the line waits)")
    hold(line.promised == promised, "W5 (what is promised is summed)")


def _check_limits(capacity: int | None, max_concurrent: int | None) -> None:
    for what, size in (("capacity", capacity), ("max_concurrent", max_concurrent)):
        if size is not None and not 1 <= size <= LARGEST_SIZE:
            raise UsageValueError(f"{what} of {size} is not between 1 and 2**62")
