"""The edges of the waiting line, each by itself: exactly full, exactly at a bound, twice, too late."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memquota._core.limits import KEEP
from memquota._core.waiting_line import OPEN, Outside, Ticket, TicketState, WaitingLine, check_line
from memquota.errors import TrackerBroken, UsageValueError
from tests.core.test_waiting_line import line_of


def test_states_of_a_ticket() -> None:
    """People read them in messages and in what is printed of a permit."""
    assert {state.name: state.value for state in TicketState} == {
        "NEW": "new",
        "WAITING": "waiting",
        "INSIDE": "inside",
        "REFUSED": "refused",
        "GONE": "gone",
    }


# --- limits -----------------------------------------------------------------------------------------------------------


def test_an_oversized_one_waits_and_runs_alone_where_nothing_else_is_said() -> None:
    small, large, last = Ticket(1), Ticket(6), Ticket(1)
    line = line_of(small, large, last, capacity=5)

    assert [line.admit(OPEN), line.admit(OPEN)] == [small, None]
    line.back_out(small)
    assert [line.admit(OPEN), line.admit(OPEN)] == [large, None]
    assert (large.state, last.state) == (TicketState.INSIDE, TicketState.WAITING)


def test_exactly_the_capacity_is_not_oversized() -> None:
    line = line_of(capacity=5, refuse_oversized=True)

    assert [line.oversized(5, None), line.oversized(6, None)] == [False, True]
    assert [line.oversized(4, 4), line.oversized(5, 4)] == [False, True]
    exactly, above = Ticket(5), Ticket(6)
    for ticket in (exactly, above):
        line.arrive(ticket)
    assert [line.admit(OPEN), line.admit(OPEN)] == [exactly, above]
    assert (exactly.state, above.state) == (TicketState.INSIDE, TicketState.REFUSED)


@pytest.mark.parametrize(
    ("weight", "outside", "fits"),
    [
        (2, OPEN, True),
        (3, OPEN, False),
        (6, OPEN, False),
        (2, Outside(bound=1), False),
        (2, Outside(room=5), True),
        (2, Outside(room=4), False),
        (0, Outside(room=0), True),
        (1, Outside("memory is short"), False),
        (1, Outside("memory is short", stuck=True), False),
        (1, Outside(ended=True), False),
    ],
)
def test_what_fits_beside_three_bytes_of_five(weight: int, outside: Outside, fits: bool) -> None:
    """Exactly full is not too full; what was promised to who is inside is not there for others."""
    line = line_of(capacity=5)
    line.enter(Ticket(3))

    assert line.fits(weight, outside) is fits


def test_where_only_one_may_be_inside_no_second_one_fits() -> None:
    line = line_of(max_concurrent=1)

    assert line.fits(0, OPEN) is True
    line.enter(Ticket(0))
    assert line.fits(0, OPEN) is False


def test_a_closed_gate_lets_nobody_in_unless_it_is_stuck() -> None:
    line = line_of(Ticket(1))

    assert line.admit(Outside("memory is short")) is None
    assert line.fits(1, Outside("memory is short")) is False


def test_limits_are_replaced_one_by_one() -> None:
    line = line_of(capacity=5, max_concurrent=6)

    line.resize(capacity=7)
    assert (line.capacity, line.max_concurrent) == (7, 6)
    line.resize(max_concurrent=None)
    assert (line.capacity, line.max_concurrent) == (7, None)
    line.resize(None, 2**62)
    assert (line.capacity, line.max_concurrent) == (None, 2**62)
    line.resize(KEEP, KEEP)
    assert (line.capacity, line.max_concurrent) == (None, 2**62)


def test_a_refused_limit_is_named() -> None:
    with pytest.raises(UsageValueError) as caught:
        line_of(capacity=0)
    assert str(caught.value) == "capacity of 0 is not between 1 and 2**62"

    with pytest.raises(UsageValueError) as caught:
        line_of(max_concurrent=2**62 + 1)
    assert str(caught.value) == f"max_concurrent of {2**62 + 1} is not between 1 and 2**62"


# --- moves ------------------------------------------------------------------------------------------------------------


def test_nobody_arrives_twice() -> None:
    ticket = Ticket(1)
    line = line_of(ticket)

    with pytest.raises(AssertionError):
        line.arrive(ticket)

    assert list(line) == [ticket]
    check_line(line, [])


def test_the_line_keeps_its_order_when_those_who_left_are_thrown_away() -> None:
    """1. Who is first leaves; 2. so many leave that all who left are thrown away; the more urgent one stays before."""
    first, urgent, second = Ticket(1, priority=3), Ticket(1, priority=1), Ticket(1, priority=2)
    line = line_of(first, urgent, second)
    passing = [Ticket(1) for _ in range(18)]
    for ticket in passing:
        line.arrive(ticket)
    for ticket in (first, *passing):
        line.give_up(ticket)
    last = Ticket(1, priority=-1)
    line.arrive(last)

    assert len(line._heap) == 3
    assert [line.admit(OPEN) for _ in range(4)] == [second, urgent, last, None]


def test_reserving_twice_reserves_once() -> None:
    paid = Ticket(6)
    line = line_of(paid)

    line.reserve(paid)
    line.reserve(paid)

    assert (line.reserved, paid.reserved) == (6, 6)
    assert line.fits(5, Outside(room=10)) is False
    assert line.fits(5, Outside(room=11)) is True
    check_line(line, [])


@pytest.mark.parametrize(
    "leave",
    [
        lambda line, ticket: line.give_up(ticket),
        lambda line, ticket: line.admit(OPEN),
        lambda line, ticket: line.admit(Outside(ended=True)),
    ],
    ids=["gives up", "goes in", "is refused"],
)
def test_who_left_the_line_has_nothing_reserved(leave: Callable[[WaitingLine[Ticket], Ticket], object]) -> None:
    paid = Ticket(6)
    line = line_of(paid)
    line.reserve(paid)

    assert leave(line, paid)

    assert (line.reserved, paid.reserved) == (0, 0)


def test_booking_what_was_given_up_meanwhile_changes_nothing() -> None:
    ticket, other = Ticket(3), Ticket(2)
    line = line_of()
    for one in (ticket, other):
        line.enter(one)
    assert line.promised == 5

    line.back_out(ticket)
    line.booked(ticket)

    assert (line.promised, ticket.promised) == (2, 0)
    check_line(line, [2], 2)


def test_who_went_in_past_the_line_with_a_slot_only_was_promised_nothing() -> None:
    """As a gate's fast path lets a permit without a weight in."""
    line = line_of()
    ticket = Ticket(0)
    line.inside += 1
    ticket.state = TicketState.INSIDE

    line.booked(ticket)
    check_line(line, [0])
    assert line.back_out(ticket)
    check_line(line, [])


# --- the check --------------------------------------------------------------------------------------------------------


def another_number(line: WaitingLine[Ticket], first: Ticket, second: Ticket) -> None:
    second.number = first.number


def another_state(line: WaitingLine[Ticket], first: Ticket, second: Ticket) -> None:
    first.state = TicketState.GONE


def another_priority(line: WaitingLine[Ticket], first: Ticket, second: Ticket) -> None:
    second.priority = 1


def lost_entry(line: WaitingLine[Ticket], first: Ticket, second: Ticket) -> None:
    line._heap.pop()


def second_entry(line: WaitingLine[Ticket], first: Ticket, second: Ticket) -> None:
    line._heap.append(line._heap[0])


@pytest.mark.parametrize(
    ("disorder", "message"),
    [
        (another_number, "W4 (in order, each once)"),
        (another_priority, "W4 (in order, each once)"),
        (second_entry, "W4 (in order, each once)"),
        (lost_entry, "W4 (each has an entry)"),
        (another_state, "W4 (who is in the line waits)"),
        (lambda line, first, second: setattr(line, "inside", 1), "W1 (who is inside is counted)"),
        (lambda line, first, second: setattr(line, "held", 5), "W2 (what they hold is summed)"),
        (lambda line, first, second: setattr(line, "reserved", 3), "W3 (what is reserved is summed)"),
        (lambda line, first, second: setattr(line, "promised", 2), "W5 (what is promised is summed)"),
    ],
)
def test_disorder_of_a_line_is_found(
    disorder: Callable[[WaitingLine[Ticket], Ticket, Ticket], object], message: str
) -> None:
    first, second = Ticket(1), Ticket(1)
    line = line_of(first, second)
    check_line(line, [])
    disorder(line, first, second)

    with pytest.raises(TrackerBroken) as caught:
        check_line(line, [])

    assert str(caught.value) == f"invariant {message} of a waiting line does not hold"
