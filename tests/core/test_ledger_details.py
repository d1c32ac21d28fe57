"""What the ledger leaves behind in handles, holdings and receipts, where only a later call would notice."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import fields

from memquota._core.accounts import reconfigure
from memquota._core.checks import check_books
from memquota._core.events import ClaimRefused, OverRelease, ParticipationEnded
from memquota._core.holdings import NO_CREDIT, Receipt
from memquota._core.ledger import Counts, Ledger
from memquota.errors import QuotaExceeded
from tests.core.support import ledger_of, member

KIB = 1024
MIB = 1024 * 1024
SEALED = (NO_CREDIT, NO_CREDIT - 1)


def test_all_counts_begin_at_nothing() -> None:
    counts = Counts()

    assert {getattr(counts, field.name) for field in fields(Counts)} == {0}


def test_a_holding_that_ended_has_no_credit_out() -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    assert who.holding.cap > 0

    ledger.end(who.holding, "destroyed")

    assert (who.holding.booked, who.holding.cap) == (0, 0)


def test_a_participant_that_fails_is_told_after_what_happened_before() -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    ledger.events.append(OverRelease("another", 1, True))

    ledger.detach(who.holding, "it raised")

    assert [type(event) for event in ledger.events] == [OverRelease, ParticipationEnded]


def test_a_handle_that_was_closed_is_not_counted_again() -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    who.line._closed = False

    ledger.close_handle(who.holding, who.line)

    assert who.line._closed


def test_a_receipt_is_given_with_the_claim() -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who")
    receipt = Receipt()

    ledger.claim(who.holding, who.line, 100, 1.0, receipt)

    assert receipt.booked


@pytest.mark.parametrize("call", ["claim", "release"])
def test_a_handle_has_no_credit_while_it_is_worked_out_anew(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """F43: what a signal handler or finalizer does with the handle then comes to the books, and is refused there."""
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    found: list[tuple[int, int]] = []
    move = Ledger._move

    def looking(self: Ledger, *arguments: Any) -> bool:
        found.append((who.line._credit, who.line._cap))
        return move(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_move", looking)
        if call == "claim":
            ledger.claim(who.holding, who.line, 500_000, 1.0)
        else:
            ledger.release(who.holding, who.line, 4000)

    assert found == [SEALED]
    assert who.line._credit >= 0


def test_a_late_release_keeps_the_owner_from_collecting_credit() -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    credit = who.line._credit

    ledger.release_late(who.holding, who.line, 1000)

    assert (who.line._credit, who.line._cap) == (credit, NO_CREDIT - 1)


def test_a_late_release_leaves_the_books_right_and_the_credit_to_its_owner() -> None:
    """P9: more than is claimed is clamped; what the owner has as credit is not released for him."""
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    credit, booked, cap = who.line._credit, who.holding.booked, who.holding.cap
    assert booked - credit == 5000
    assert 0 < credit < cap

    ledger.release_late(who.holding, who.line, 1000)

    assert (who.holding.booked, who.holding.cap, ledger.root.used) == (
        booked - 1000,
        min(cap, booked - 1000),
        booked - 1000,
    )
    assert (who.line._credit, who.line._cap) == (credit, NO_CREDIT - 1)
    check_books(ledger)

    ledger.release_late(who.holding, who.line, 5000)

    assert (who.holding.booked, who.holding.cap, ledger.root.used) == (credit, credit, credit)
    assert (ledger.counts.over_releases, ledger.counts.over_released_bytes) == (1, 1000)
    check_books(ledger)


def test_a_claim_that_moves_nothing_passes_no_limit() -> None:
    """A strict ledger hands out no credit, so that also a claim of nothing comes to the books."""
    ledger = ledger_of(1000, strict=True)
    who = member(ledger, "who", 100)

    assert who.claim(0) is False
    assert (who.holding.booked, who.holding.claims) == (100, 2)


def test_what_others_hold_is_not_there_to_be_credit_below_a_hard_limit() -> None:
    """P3: credit is booked; what is left for it is less by all that is used already."""
    ledger = ledger_of(1 * MIB, 1 * MIB, 1 * MIB)
    member(ledger, "other", 512 * KIB)
    assert ledger.root.used == 514 * KIB

    who = member(ledger, "who", 510 * KIB - 1000)

    assert (who.line._credit, who.line._cap) == (500, 1000)
    assert ledger.root.used == 1 * MIB - 500


@pytest.mark.parametrize("lost", [True, False])
def test_what_two_users_of_one_handle_made_of_its_credit_is_at_least_nothing_and_at_most_what_it_got(
    lost: bool,
) -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    booked, cap = who.holding.booked, who.holding.cap
    who.line._credit = -7 if lost else cap + 5000

    ledger.claim(who.holding, who.line, 100 if lost else cap + 100, 1.0)

    assert who.line._credit > 0
    assert who.in_use == booked + 100
    check_books(ledger)


def test_a_refusal_is_told_after_what_happened_before() -> None:
    ledger = ledger_of(1000, hard_limit=1000)
    who = member(ledger, "who")
    ledger.events.append(OverRelease("another", 1, True))

    with pytest.raises(QuotaExceeded):
        who.claim(1001)

    assert [type(event) for event in ledger.events] == [OverRelease, ClaimRefused]


def test_a_new_priority_moves_a_candidate_also_where_it_is_the_time_of_its_data() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 100, age=5.0)

    reconfigure(ledger, who.holding.node, None, 0, priority=5)

    assert list(ledger.root_scope.index) == [(5, 5.0, 1, who.holding)]


def test_a_new_time_moves_a_candidate_also_where_it_is_its_number() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 100, age=5.0)

    ledger.rekey(who.holding, 1.0)

    assert list(ledger.root_scope.index) == [(0, 1.0, 1, who.holding)]
