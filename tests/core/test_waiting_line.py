"""The waiting line against a model that knows only what everybody was told."""

from typing import Any

import pytest
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
        self.line = WaitingLine()
        self.outside = OPEN
        # What the model was told: who waits in which order, and what everybody inside holds.
        self.waiting: list[Ticket] = []
        self.inside: dict[Ticket, int] = {}
        self.granted = self.returned = 0

    def settle(self) -> None:
        while True:
            before = dict(self.inside)
            outside = self.outside
            if outside.room is not None:
                outside = Outside(outside.closed, outside.room - sum(before.values()), outside.bound, outside.stuck)
            ticket = self.line.admit(outside)
            if ticket is None:
                return
            assert ticket is self.waiting.pop(0)
            if ticket.state is TicketState.REFUSED:
                assert self.line.refuse_oversized
                assert self.is_oversized(ticket.weight)
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
        if self.outside.closed is not None:
            assert self.outside.stuck
            assert not before
        elif self.is_oversized(ticket.weight):
            assert not before
        else:
            held = sum(before.values()) + ticket.weight
            assert line.capacity is None or held <= line.capacity
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

    @rule(ticket=consumes(tickets))
    def cancel(self, ticket: Ticket) -> None:
        """Before, at or after the grant, or after all is over."""
        if ticket in self.waiting:
            assert self.line.give_up(ticket)
            assert not self.line.back_out(ticket)
            self.waiting.remove(ticket)
        elif ticket in self.inside:
            ticket.weight = self.inside[ticket]
            assert not self.line.give_up(ticket)
            assert self.line.back_out(ticket)
            assert not self.line.back_out(ticket)
            del self.inside[ticket]
            self.returned += 1
        else:
            assert not self.line.give_up(ticket)
            assert not self.line.back_out(ticket)
        self.settle()

    @rule(ticket=tickets, actual=WEIGHTS)
    def adjust(self, ticket: Ticket, actual: int) -> None:
        if ticket in self.inside:
            self.line.adjust(self.inside[ticket], actual)
            self.inside[ticket] = ticket.weight = actual
            self.settle()

    @rule(ticket=tickets)
    def reserve(self, ticket: Ticket) -> None:
        self.line.reserve(ticket)
        assert ticket.reserved == (ticket.weight if ticket in self.waiting else 0)
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
        assert self.line.close() == self.waiting
        assert all(ticket.state is TicketState.REFUSED for ticket in self.waiting)
        self.waiting.clear()

    @invariant()
    def books_of_the_line(self) -> None:
        check_line(self.line, list(self.inside.values()))
        assert self.granted - self.returned == len(self.inside) == self.line.inside
        assert list(self.line) == self.waiting

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Whoever is first waits for a reason; with nobody inside, nothing closed and room outside there is none."""
        if self.waiting and not self.inside and self.outside.closed is None:
            first = self.waiting[0]
            room = self.outside.room
            reserved = sum(ticket.reserved for ticket in self.waiting) - first.reserved
            assert room is not None
            assert first.weight + reserved > room
            assert not self.is_oversized(first.weight)


TestWaitingLine = LineMachine.TestCase


def line_of(*tickets: Ticket, **limits: Any) -> WaitingLine:
    line = WaitingLine(**limits)
    for ticket in tickets:
        line.arrive(ticket)
    return line


@pytest.mark.parametrize("limits", [{"capacity": 0}, {"max_concurrent": 0}, {"capacity": 2**62 + 1}])
def test_limits_out_of_range_are_refused_and_change_nothing(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"is not between 1 and 2\*\*62"):
        WaitingLine(**limits)
    line = WaitingLine(5, 6)

    with pytest.raises(UsageError):
        line.resize(**limits)

    assert (line.capacity, line.max_concurrent) == (5, 6)


def test_what_is_reserved_for_one_nobody_else_takes() -> None:
    paid, urgent = Ticket(6), Ticket(5, priority=1)
    line = line_of(paid, urgent)
    line.reserve(paid)

    assert line.admit(Outside(room=10, bound=100)) is None
    assert line.admit(Outside(room=11, bound=100)) is urgent
    assert line.admit(Outside(room=6, bound=100)) is paid
    assert line.reserved == 0


def test_one_who_is_stuck_goes_in_alone() -> None:
    first, second = Ticket(1), Ticket(1)
    line = line_of(first, second)
    stuck = Outside("memory is short", stuck=True)

    assert line.admit(stuck) is first
    assert line.admit(stuck) is None
    assert line.place(second) == 0


def test_who_does_not_wait_has_no_place() -> None:
    ticket = Ticket(1)
    line = line_of(ticket)
    line.give_up(ticket)

    assert line.place(ticket) is None
    assert line.place(Ticket(1)) is None


@pytest.mark.parametrize(
    ("field", "value", "invariant"), [("inside", 1, "W1"), ("held", 5, "W2"), ("reserved", 3, "W3")]
)
def test_the_check_sees_what_is_wrong(field: str, value: int, invariant: str) -> None:
    line = line_of(Ticket(1))
    check_line(line, [])
    setattr(line, field, value)

    with pytest.raises(TrackerBroken, match=f"invariant {invariant} "):
        check_line(line, [])
