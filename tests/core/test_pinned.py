"""What running work holds counts, and is never a candidate."""

import pytest

from memquota._core.accounts import open_account
from memquota._core.checks import check_books, rebuild
from memquota._core.holdings import PinnedHolding
from memquota._core.ledger import IdleLedger, Ledger
from memquota._core.limits import Limits
from memquota._core.waiting_line import Ticket
from memquota.errors import QuotaExceeded


def test_a_ticket_holds_what_it_was_told_last() -> None:
    ledger = Ledger("tracker", Limits(100))
    node = open_account(ledger, "work", ledger.root)
    holding, ticket = PinnedHolding(node, "work"), Ticket(40)

    answers = [ledger.pin(holding, ticket, size) for size in (40, 40, 120, 10)]

    assert answers == [False, False, True, False]
    assert (node.used, ledger.root.used, ledger.peak, ticket.booked) == (10, 10, 120, 10)
    assert holding.entry is None
    check_books(ledger)


def test_a_hard_limit_refuses_and_the_ticket_holds_what_it_held() -> None:
    ledger = Ledger("tracker", Limits(100, hard_limit=100))
    holding, ticket = PinnedHolding(open_account(ledger, "work", ledger.root), "work"), Ticket(60)
    ledger.pin(holding, ticket, 60)

    with pytest.raises(QuotaExceeded):
        ledger.pin(holding, ticket, 101)

    assert (ledger.root.used, ticket.booked) == (60, 60)


def test_a_hard_limit_refuses_a_single_byte_more() -> None:
    """P3: nothing is used above a hard limit."""
    ledger = Ledger("tracker", Limits(100, hard_limit=100))
    holding, ticket = PinnedHolding(open_account(ledger, "work", ledger.root), "work"), Ticket(100)
    ledger.pin(holding, ticket, 100)

    with pytest.raises(QuotaExceeded):
        ledger.pin(holding, ticket, 101)

    assert (ledger.root.used, ticket.booked) == (100, 100)


def test_it_counts_also_in_an_account_where_others_hold_something() -> None:
    ledger = Ledger("tracker", Limits(100))
    node = open_account(ledger, "work", ledger.root)
    first, second = PinnedHolding(node, "first"), PinnedHolding(node, "second")

    ledger.pin(first, Ticket(20), 20)
    ledger.pin(second, Ticket(30), 30)

    assert node.holdings == {first: None, second: None}
    assert node.used == 50
    check_books(ledger)


def test_it_is_no_candidate_either_after_the_sums_were_derived_anew() -> None:
    ledger = Ledger("tracker", Limits(100))
    holding, ticket = PinnedHolding(open_account(ledger, "work", ledger.root), "work"), Ticket(60)
    ledger.pin(holding, ticket, 60)

    rebuild(ledger)

    assert holding.entry is None
    assert ledger.root.used == 60
    check_books(ledger)


def test_nothing_is_booked_where_the_holding_is_over_or_nothing_counts() -> None:
    ledger = Ledger("tracker", Limits(100))
    holding, ticket = PinnedHolding(open_account(ledger, "work", ledger.root), "work"), Ticket(60)
    ledger.pin(holding, ticket, 60)
    ledger.end(holding, "released")

    assert not ledger.pin(holding, ticket, 0)
    assert ledger.root.used == 0
    idle = IdleLedger("tracker", Limits(100))
    assert idle.pin(PinnedHolding(idle.root, "work"), Ticket(1000), 1000) is False
    assert idle.root.used == 0
