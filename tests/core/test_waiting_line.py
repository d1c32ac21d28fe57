"""The waiting line against a model that knows only what everybody was told."""

from typing import Any

import pytest
from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from memquota._core.waiting_line import OPEN, Outside, Ticket, TicketState, WaitingLine, check_line
from memquota.errors import TrackerBroken, UsageError

WEIGHTS = st.integers(0, 12)
LIMITS = st.none() | st.integers(1, 10)


class LineMachine(RuleBasedStateMachine):
    """Acquire, cancel at any time, release, adjust, resize, throttle, close: in any order."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.line: WaitingLine[Ticket] = WaitingLine()
        self.outside = OPEN
        # What the model was told: who waits in which order, what everybody inside holds, and what is in the books.
        self.waiting: list[Ticket] = []
        self.inside: dict[Ticket, int] = {}
        self.books: dict[Ticket, int] = {}
        self.granted = self.returned = 0

    def settle(self) -> None:
        while True:
            before = dict(self.inside)
            outside = self.outside
            if outside.room is not None:
                outside = evolve(outside, room=outside.room - sum(self.books.values()))
            ticket = self.line.admit(outside)
            if ticket is None:
                return
            assert ticket is self.waiting.pop(0)
            if ticket.state is TicketState.REFUSED:
                assert outside.ended or self.line.refuse_oversized
                assert outside.ended or self.is_oversized(ticket.weight)
                continue
            self.inside[ticket] = ticket.weight
            self.granted += 1
            self.check_capacity(before, ticket)

    def is_oversized(self, weight: int) -> bool:
        limits = [limit for limit in (self.line.capacity, self.outside.bound) if limit is not None]
        return bool(limits) and weight > min(limits)

    def check_capacity(self, before: dict[Ticket, int], ticket: Ticket) -> None:
        """Never over capacity by an admission, but for one alone."""
        line = self.line
        assert not self.outside.ended
        if self.outside.closed is not None:
            assert self.outside.stuck
            assert not before
        elif self.is_oversized(ticket.weight):
            assert not before
        else:
            held = sum(before.values()) + ticket.weight
            assert line.capacity is None or held <= line.capacity
        room, bound = self.outside.room, self.outside.bound
        promised = sum(weight for t, weight in before.items() if t not in self.books)
        assert bound is None or promised <= bound  # of one who runs alone
        if ticket.weight and room is not None:
            booked = sum(self.books.values()) + promised
            kept = sum(other.reserved for other in self.waiting)
            fits = booked + ticket.weight + kept <= room
            assert fits or (bound is not None and ticket.weight > bound)
        assert line.max_concurrent is None or len(before) < line.max_concurrent

    @rule(target=tickets, weight=WEIGHTS, priority=st.integers(-1, 1))
    def acquire(self, weight: int, priority: int) -> Ticket:
        ticket = Ticket(weight, priority)
        self.line.arrive(ticket)
        behind = [other for other in self.waiting if other.priority < priority]
        self.waiting.insert(len(self.waiting) - len(behind), ticket)
        assert self.line.place(ticket) == self.waiting.index(ticket)
        self.settle()
        return ticket

    @rule(target=tickets, weight=WEIGHTS)
    def go_in_now(self, weight: int) -> Ticket:
        """As the shell does it: only where nobody waits and it fits."""
        ticket = Ticket(weight)
        room = self.outside.room
        outside = self.outside if room is None else evolve(self.outside, room=room - sum(self.books.values()))
        if not len(self.line) and self.line.fits(weight, outside):
            before = dict(self.inside)
            self.line.enter(ticket)
            self.inside[ticket] = weight
            self.granted += 1
            self.check_capacity(before, ticket)
        return ticket

    @rule(ticket=consumes(tickets))
    def cancel(self, ticket: Ticket) -> None:
        """Before, at or after the grant, or after all is over."""
        if ticket in self.waiting:
            assert self.line.give_up(ticket)
            assert not self.line.back_out(ticket)
            self.waiting.remove(ticket)
        elif ticket in self.inside:
            assert not self.line.give_up(ticket)
            assert self.line.back_out(ticket)
            assert not self.line.back_out(ticket)
            del self.inside[ticket]
            self.books.pop(ticket, None)
            self.returned += 1
        else:
            assert not self.line.give_up(ticket)
            assert not self.line.back_out(ticket)
        self.settle()

    @rule(ticket=tickets)
    def refuse(self, ticket: Ticket) -> None:
        assert self.line.refuse(ticket) is (ticket in self.waiting)
        if ticket in self.waiting:
            assert ticket.state is TicketState.REFUSED
            self.waiting.remove(ticket)
        self.settle()

    @rule(ticket=tickets)
    def book(self, ticket: Ticket) -> None:
        if ticket in self.inside:
            self.books[ticket] = self.inside[ticket]
            self.line.booked(ticket)
            self.settle()

    @rule(ticket=tickets, actual=WEIGHTS)
    def adjust(self, ticket: Ticket, actual: int) -> None:
        if ticket in self.inside and ticket not in self.books:
            return  # nobody has such a permit yet
        assert self.line.adjust(ticket, actual) is (ticket in self.inside)
        if ticket in self.inside:
            self.inside[ticket] = self.books[ticket] = actual
            assert ticket.weight == actual
        self.settle()

    @rule(ticket=tickets)
    def reserve(self, ticket: Ticket) -> None:
        self.line.reserve(ticket)
        assert ticket.reserved == (ticket.weight if ticket in self.waiting else 0)
        self.settle()

    @rule()
    def release_reserved(self) -> None:
        self.line.release_reserved()
        assert self.line.reserved == 0
        self.settle()

    @rule(capacity=LIMITS, max_concurrent=LIMITS, refuse=st.booleans())
    def resize(self, capacity: int | None, max_concurrent: int | None, refuse: bool) -> None:
        self.line.resize(capacity, max_concurrent)
        self.line.refuse_oversized = refuse
        self.settle()

    @rule(closed=st.booleans(), room=st.none() | st.integers(0, 20), bound=LIMITS, stuck=st.booleans())
    def throttle(self, closed: bool, room: int | None, bound: int | None, stuck: bool) -> None:
        self.outside = Outside("throttled" if closed else None, room, bound, closed and stuck)
        self.settle()

    @rule()
    def close(self) -> None:
        self.outside = Outside(ended=True)
        self.settle()
        assert not self.waiting

    @invariant()
    def books_of_the_line(self) -> None:
        promised = sum(weight for ticket, weight in self.inside.items() if ticket not in self.books)
        check_line(self.line, list(self.inside.values()), promised)
        assert self.granted - self.returned == len(self.inside) == self.line.inside
        assert list(self.line) == self.waiting
        assert [self.line.place(ticket) for ticket in self.waiting] == list(range(len(self.waiting)))

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Whoever is first waits for a reason; with nobody inside, nothing closed and room outside there is none."""
        if self.waiting and not self.inside and self.outside.closed is None:
            assert not self.outside.ended
            first = self.waiting[0]
            room = self.outside.room
            reserved = sum(ticket.reserved for ticket in self.waiting) - first.reserved
            assert room is not None
            assert first.weight + reserved > room
            assert self.outside.bound is None or first.weight <= self.outside.bound


TestWaitingLine = LineMachine.TestCase


def line_of(*tickets: Ticket, **limits: Any) -> WaitingLine[Ticket]:
    line: WaitingLine[Ticket] = WaitingLine(**limits)
    for ticket in tickets:
        line.arrive(ticket)
    return line


@pytest.mark.parametrize("limits", [{"capacity": 0}, {"max_concurrent": 0}, {"capacity": 2**62 + 1}])
def test_limits_out_of_range_are_refused_and_change_nothing(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"is not between 1 and 2\*\*62"):
        WaitingLine(**limits)
    line: WaitingLine[Ticket] = WaitingLine(5, 6)

    with pytest.raises(UsageError):
        line.resize(**limits)

    assert (line.capacity, line.max_concurrent) == (5, 6)


def test_what_is_reserved_for_one_nobody_else_takes() -> None:
    paid, urgent = Ticket(6), Ticket(5, priority=1)
    line = line_of(paid, urgent)
    line.reserve(paid)

    assert line.admit(Outside(room=10, bound=100)) is None
    assert line.admit(Outside(room=11, bound=100)) is urgent
    assert line.admit(Outside(room=10, bound=100)) is None  # what was promised is not in the books yet
    line.booked(urgent)
    assert line.admit(Outside(room=6, bound=100)) is paid
    assert line.reserved == 0


def test_what_was_reserved_is_there_for_the_first_one_when_it_is_kept_no_longer() -> None:
    paid, urgent = Ticket(6), Ticket(5, priority=1)
    line = line_of(paid, urgent)
    line.reserve(paid)
    assert line.admit(Outside(room=10, bound=100)) is None

    line.release_reserved()

    assert (line.reserved, paid.reserved) == (0, 0)
    assert line.admit(Outside(room=10, bound=100)) is urgent


def test_one_who_is_stuck_goes_in_alone() -> None:
    first, second = Ticket(1), Ticket(1)
    line = line_of(first, second)
    stuck = Outside("memory is short", stuck=True)

    assert line.admit(stuck) is first
    assert line.admit(stuck) is None
    assert line.place(second) == 0


def test_one_who_is_stuck_waits_for_room_outside_like_everybody_else() -> None:
    first = Ticket(6)
    line = line_of(first)

    assert line.admit(Outside("memory is short", room=5, bound=10, stuck=True)) is None
    assert line.admit(Outside("memory is short", room=6, bound=10, stuck=True)) is first


def test_nobody_follows_one_who_runs_alone_before_it_is_in_the_books() -> None:
    oversized, slot = Ticket(11), Ticket(0)
    line = line_of(oversized, slot)
    outside = Outside(room=10, bound=10)

    assert line.admit(outside) is oversized
    assert line.admit(outside) is None
    line.booked(oversized)
    assert line.admit(outside) is slot  # what is in the books shuts the gate from outside, where it is too much


def test_oversized_for_the_gate_alone_waits_for_all_there_is_outside() -> None:
    line = line_of(Ticket(20), capacity=10)

    assert line.admit(Outside(room=19, bound=20)) is None
    assert line.admit(Outside(room=20, bound=20)) is not None


def test_one_who_fills_all_there_is_does_not_run_alone() -> None:
    exactly, slot = Ticket(10), Ticket(0)
    line = line_of(exactly, slot)
    outside = Outside(room=10, bound=10)

    assert [line.admit(outside), line.admit(outside)] == [exactly, slot]


def test_oversized_for_the_gate_alone_waits_for_room_outside_too() -> None:
    line = line_of(Ticket(11), Ticket(21), capacity=10)
    first, second = line

    assert line.admit(Outside(room=10, bound=20)) is None
    assert line.admit(Outside(room=11, bound=20)) is first
    assert line.admit(Outside(room=20, bound=20)) is None  # somebody is inside
    line.back_out(first)
    assert line.admit(Outside(room=0, bound=20)) is second  # there will never be more


def test_who_gave_up_is_forgotten_however_long_the_first_one_waits() -> None:
    first = Ticket(1, priority=1)
    line = line_of(first)

    lengths = []
    for _ in range(100):
        ticket = Ticket(1)
        line.arrive(ticket)
        line.give_up(ticket)
        check_line(line, [])
        lengths.append(len(line._heap))

    assert list(line) == [first]
    assert max(lengths) == 19


def test_who_does_not_wait_has_no_place() -> None:
    ticket = Ticket(1)
    line = line_of(ticket)
    line.give_up(ticket)

    assert line.place(ticket) is None
    assert line.place(Ticket(1)) is None


def test_the_check_sees_somebody_without_an_entry() -> None:
    line = line_of(Ticket(1))
    line._heap.clear()

    with pytest.raises(TrackerBroken, match="invariant W4 "):
        check_line(line, [])


@pytest.mark.parametrize(
    ("field", "value", "invariant"),
    [("inside", 1, "W1"), ("held", 5, "W2"), ("reserved", 3, "W3"), ("promised", 2, "W5")],
)
def test_the_check_sees_what_is_wrong(field: str, value: int, invariant: str) -> None:
    line = line_of(Ticket(1))
    check_line(line, [])
    setattr(line, field, value)

    with pytest.raises(TrackerBroken, match=f"invariant {invariant} "):
        check_line(line, [])


def test_nobody_goes_in_when_all_is_over() -> None:
    first, second = Ticket(1), Ticket(1)
    line = line_of(first, second)
    over = Outside(ended=True)

    assert not line.fits(0, over)
    assert [line.admit(over), line.admit(over), line.admit(over)] == [first, second, None]
    assert first.state is second.state is TicketState.REFUSED


def test_moves_that_come_too_late_change_nothing() -> None:
    waits, left = Ticket(1), Ticket(1, priority=1)
    line = line_of(waits, left)

    assert [line.give_up(left), line.give_up(left)] == [True, False]
    assert [line.adjust(waits, 5), line.back_out(waits), line.refuse(left)] == [False, False, False]
    line.reserve(left)
    assert (line.reserved, waits.weight, line.first) == (0, 1, waits)
    check_line(line, [])


def test_a_number_is_not_used_twice_where_memory_ran_out_half_way() -> None:
    """F44: the entry of who did not arrive stays behind, and is nobody else's."""

    class Full(dict[int, Ticket]):
        def __setitem__(self, number: int, ticket: Ticket) -> None:
            raise MemoryError

    line: WaitingLine[Ticket] = WaitingLine(10)
    line._tickets = Full()
    with pytest.raises(MemoryError):
        line.arrive(Ticket(1, priority=5))
    line._tickets = {}

    first, second = Ticket(1, priority=1), Ticket(1)
    line.arrive(second)
    line.arrive(first)

    check_line(line, [])
    assert list(line) == [first, second]
