"""Claims and releases of handles, and of accounts for themselves."""

import pytest

from memquota._core.accounts import close_account
from memquota._core.checks import check_books
from memquota._core.events import ClaimRefused, CloseKind, CloseReason, OverRelease, ParticipationEnded
from memquota._core.holdings import CreditLine, Holding
from memquota._core.ledger import Counts, Ledger
from memquota._core.limits import Limits
from memquota.errors import QuotaExceeded, UsageValueError
from tests.core.support import Handle, account, events_of, ledger_of, member


def state(ledger: Ledger, *handles: Handle) -> list[object]:
    """All that a refused call must leave as it was; counts and events tell of the refusal."""
    found: list[object] = [ledger.peak, ledger.version, dict(ledger.strained), list(ledger.root_scope.index)]
    for node in ledger.accounts:
        found += [node.used, node.returned, node.own.booked if node.own else None]
        found += [list(node.own.claimed) if node.own else None, list(node.holdings or ())]
    for handle in handles:
        found += [getattr(handle.holding, name) for name in Holding.__slots__]
        found += [handle.line._credit, handle.line._cap]
    return found


def test_a_new_ledger_is_empty() -> None:
    limits = Limits(1000)
    ledger = Ledger("tracker", limits)

    assert ledger.root.name == "tracker"
    assert ledger.root_scope.limits is limits
    assert ledger.strict is False
    assert Ledger("tracker", limits, strict=True).strict is True
    assert list(ledger.accounts) == [ledger.root]
    assert (ledger.peak, ledger.version, ledger.sequence, ledger.surveys) == (0, 0, 0, 0)
    assert ledger.counts == Counts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert not ledger.strained
    assert not ledger.events
    assert not ledger.ended
    assert not ledger.debris
    check_books(ledger)


def test_a_claim_counts_in_every_account_above() -> None:
    """P1: an account's use is its own and that of its descendants."""
    ledger = ledger_of()
    top = account(ledger, "top")
    beside = account(ledger, "beside")
    who = member(ledger, "who", 10)
    below = member(ledger, "below", 30, parent=top)

    assert (ledger.root.used, top.used, below.holding.node.used, who.holding.node.used) == (40, 30, 30, 10)
    assert beside.used == 0
    assert ledger.peak == 40


def test_a_release_is_counted_as_returned_in_every_account_above() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 50)
    who.release(20)
    who.claim(5)
    who.release(10)

    node = who.holding.node
    assert (node.used, node.returned, ledger.root.used, ledger.root.returned) == (25, 30, 25, 30)
    assert ledger.peak == 50
    check_books(ledger)


def test_a_claim_says_whether_a_limit_is_passed_and_notes_whose() -> None:
    """P3: at the limit is not above it."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", limit=100)
    node = who.holding.node

    assert who.claim(100) is False
    assert not ledger.strained
    assert who.claim(1) is True
    assert list(ledger.strained) == [node]

    other = member(ledger, "other")
    assert other.claim(899) is False
    assert other.claim(1) is True
    assert list(ledger.strained) == [node, ledger.root]
    assert other.claim(1) is True
    check_books(ledger)


def test_a_limit_is_passed_from_above_it_until_low_water() -> None:
    """Whoever looks meanwhile or not."""
    ledger = ledger_of(1000)
    who = member(ledger, "who")
    found = []

    for size in (1000, 1, -101, -149, -1, 249, 2, -252):
        (who.claim if size > 0 else who.release)(abs(size))
        found.append((ledger.root.used, ledger.root_scope.passed))
        check_books(ledger)

    assert found == [
        (1000, False),
        (1001, True),
        (900, True),
        (751, True),
        (750, False),
        (999, False),
        (1001, True),
        (749, False),
    ]


def test_giving_back_strains_nobody() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1500)
    ledger.strained.clear()
    who.release(100)

    assert not ledger.strained


def test_each_claim_that_comes_to_the_books_is_counted() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    who.claim(5)

    assert who.holding.claims == 2


def test_a_holding_enters_the_candidates_with_its_first_bytes() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", priority=3)
    assert who.holding.entry is None

    who.claim(5, now=7.0)

    assert who.holding.entry == (3, 7.0, 1, who.holding)
    assert who.holding.entry in ledger.root_scope.index
    assert ledger.version == 1

    who.claim(5, now=9.0)
    assert who.holding.entry == (3, 7.0, 1, who.holding)
    assert ledger.version == 1


def test_a_claim_of_nothing_makes_no_candidate() -> None:
    ledger = ledger_of()
    who = member(ledger, "who")
    ledger.claim(who.holding, who.line, 0, 1.0)

    assert who.holding.entry is None
    assert len(ledger.root_scope.index) == 0


# --- hard limits ------------------------------------------------------------------------------------------------------


def test_a_hard_limit_is_reached_and_never_passed() -> None:
    """P3: the last byte is given, one more is refused."""
    ledger = ledger_of(800, None, 1000)
    who = member(ledger, "who", 999)

    who.claim(1)
    before = state(ledger, who)
    with pytest.raises(QuotaExceeded):
        who.claim(1)

    assert state(ledger, who) == before
    assert ledger.root.used == 1000


def test_a_refusal_tells_who_asked_for_what_and_who_holds_most() -> None:
    ledger = ledger_of(1000)
    above = account(ledger, "above", hard_limit=2048)
    sizes = [100, 300, 200, 400, 0]
    children = [member(ledger, f"child-{number}", size, parent=above) for number, size in enumerate(sizes)]

    with pytest.raises(QuotaExceeded) as caught:
        children[0].claim(1049)

    error = caught.value
    assert (error.account, error.asked, error.used, error.limit) == ("child-0", 1049, 1000, 2048)
    assert error.holders == (("child-3", 400), ("child-1", 300), ("child-2", 200))
    assert error.args[4] == error.holders
    assert list(ledger.events) == [ClaimRefused("child-0", 1049, 1000, 2048)]
    assert ledger.counts.refused == 1


def test_the_largest_of_many_are_looked_for_at_some_refusals_only() -> None:
    """Of up to 255 at each; of 512 at each third. Who is named is named with what it holds now, largest first."""
    ledger = ledger_of(1000)
    above = account(ledger, "above", hard_limit=2000)
    nodes = [account(ledger, f"child-{number}", above) for number in range(255)]

    def holders() -> tuple[tuple[str, int], ...]:
        with pytest.raises(QuotaExceeded) as caught:
            ledger.claim_own(above, 2000, 0.0)
        return caught.value.holders

    for number in range(3):
        ledger.claim_own(nodes[number], 100 + number, 0.0)
        assert holders()[0] == (f"child-{number}", 100 + number)
    nodes += [account(ledger, f"child-{number}", above) for number in range(255, 512)]
    old = (("child-2", 102), ("child-1", 101), ("child-0", 100))
    assert holders() == old
    ledger.claim_own(nodes[3], 103, 0.0)
    assert [holders(), holders()] == [old, old]
    assert holders() == (("child-3", 103), ("child-2", 102), ("child-1", 101))
    ledger.claim_own(nodes[1], 10, 0.0)
    ledger.release_own(nodes[2], 102)
    assert holders() == (("child-1", 111), ("child-3", 103))


def test_a_refusal_names_nobody_who_holds_nothing() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", hard_limit=10)
    idle = account(ledger, "parent of idle", hard_limit=10)
    account(ledger, "idle", idle)

    for refused in (who.holding.node, idle):
        with pytest.raises(QuotaExceeded) as caught:
            ledger.claim_own(refused, 11, 0.0)
        assert caught.value.holders == ()


def test_every_hard_limit_above_refuses() -> None:
    ledger = ledger_of(800, None, 1000)
    outer = account(ledger, "outer", hard_limit=500)
    inner = account(ledger, "inner", outer, hard_limit=100)
    other = account(ledger, "other", outer)

    for node, size, limit in ((inner, 101, 100), (other, 501, 500), (account(ledger, "beside"), 1001, 1000)):
        with pytest.raises(QuotaExceeded) as caught:
            ledger.claim_own(node, size, 0.0)
        assert caught.value.limit == limit
    assert ledger.root.used == 0
    assert inner.own is None


def test_a_refused_claim_of_an_account_changes_nothing() -> None:
    """P8: nothing is made for it either."""
    ledger = ledger_of(800, None, 1000)
    node = account(ledger)
    ledger.claim_own(node, 600, 0.0)
    before = state(ledger)

    with pytest.raises(QuotaExceeded):
        ledger.claim_own(node, 401, 1.0)

    assert state(ledger) == before


# --- releases ---------------------------------------------------------------------------------------------------------


def test_release_of_more_than_is_claimed_gives_back_what_is_and_is_counted() -> None:
    """P9, F5: clamped, counted, told once for each account; others are as before."""
    ledger = ledger_of()
    who, other = member(ledger, "who", 10), member(ledger, "other", 20)

    who.release(15)
    who.claim(5)
    who.release(7)

    assert (who.holding.booked, other.holding.booked, ledger.root.used) == (0, 20, 20)
    assert (ledger.counts.over_releases, ledger.counts.over_released_bytes) == (2, 7)
    assert events_of(ledger) == [OverRelease("who", 5, True), OverRelease("who", 2, False)]
    check_books(ledger)


def test_release_of_all_is_no_over_release() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    who.release(10)

    assert who.holding.booked == 0
    assert ledger.counts.over_releases == 0
    assert not ledger.events


def test_a_strict_ledger_refuses_to_release_more_than_is_claimed() -> None:
    """P9, F5: and nothing is released."""
    ledger = ledger_of(strict=True)
    who = member(ledger, "who", 10)
    before = state(ledger, who)

    with pytest.raises(UsageValueError) as caught:
        who.release(11)

    assert str(caught.value) == "release of 11 bytes by 'who': only 10 are claimed"
    assert state(ledger, who) == before
    assert ledger.counts.over_releases == 0
    who.release(10)
    assert ledger.root.used == 0


def test_handles_of_one_holding_release_from_what_all_of_them_claimed() -> None:
    ledger = ledger_of()
    first = member(ledger, "who", 10)
    second = Handle(ledger, first.holding)
    ledger.add_handle(first.holding, first.line)

    second.release(4)
    assert first.holding.booked == 6
    second.release(7)
    assert first.holding.booked == 0
    assert ledger.counts.over_released_bytes == 1


# --- accounts for themselves ------------------------------------------------------------------------------------------


def test_an_account_claims_for_itself() -> None:
    ledger = ledger_of(100)
    node = account(ledger, priority=2)

    assert ledger.claim_own(node, 60, 3.0) is False
    assert ledger.claim_own(node, 41, 4.0) is True

    own = node.own
    assert own is not None
    assert (own.booked, own.claims, own.cap, list(own.claimed)) == (101, 2, 0, [[3.0, 60], [4.0, 41]])
    assert own.entry == (2, 3.0, 1, own)
    assert (node.used, ledger.root.used, ledger.peak) == (101, 101, 101)
    assert list(node.live_holdings()) == [own]
    check_books(ledger)


def test_an_account_gives_back_its_oldest_claims_first() -> None:
    ledger = ledger_of()
    node = account(ledger)
    ledger.claim_own(node, 10, 1.0)
    ledger.claim_own(node, 10, 2.0)

    ledger.release_own(node, 15)

    assert node.own is not None
    assert node.own.oldest() == 2.0
    assert (node.own.booked, node.used, node.returned, ledger.root.used) == (5, 5, 15, 5)
    check_books(ledger)


def test_a_claim_of_an_account_that_failed_leaves_the_older_ones() -> None:
    """P8."""
    ledger = ledger_of()
    node = account(ledger)
    ledger.claim_own(node, 10, 1.0)
    ledger.claim_own(node, 20, 2.0)

    ledger.release_own(node, 20, 2.0)

    assert node.own is not None
    assert node.own.oldest() == 1.0
    assert (node.own.booked, node.used, node.returned, ledger.root.used) == (10, 10, 20, 10)
    check_books(ledger)


def test_an_account_that_gives_back_more_than_it_claimed_is_clamped() -> None:
    """P9, F5: also one that never claimed anything, and what its participants claimed is not touched."""
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    node = who.holding.node

    ledger.release_own(node, 3)
    assert node.own is None
    ledger.claim_own(node, 5, 0.0)
    ledger.release_own(node, 7)

    assert node.used == 10
    assert (ledger.counts.over_releases, ledger.counts.over_released_bytes) == (2, 5)
    check_books(ledger)


def test_giving_nothing_back_moves_nothing() -> None:
    ledger = ledger_of()
    node = account(ledger)
    ledger.release_own(node, 0)
    ledger.claim_own(node, 5, 0.0)
    ledger.release_own(node, 0)

    assert (node.used, node.returned, ledger.counts.over_releases) == (5, 0, 0)


def test_a_strict_ledger_refuses_an_account_too() -> None:
    ledger = ledger_of(strict=True)
    node = account(ledger)

    with pytest.raises(UsageValueError, match="release of 1 bytes by 'account': only 0 are claimed"):
        ledger.release_own(node, 1)
    ledger.claim_own(node, 5, 0.0)
    with pytest.raises(UsageValueError, match="release of 6 bytes by 'account': only 5 are claimed"):
        ledger.release_own(node, 6)
    assert node.used == 5


# --- handles and holdings end -----------------------------------------------------------------------------------------


def test_a_holding_ends_with_its_last_handle_and_is_written_off() -> None:
    ledger = ledger_of()
    first = member(ledger, "who", 10)
    second = Handle(ledger, first.holding)
    ledger.add_handle(first.holding, first.line)

    ledger.close_handle(first.holding, first.line)
    assert first.holding.live
    assert ledger.root.used == 10
    ledger.close_handle(second.holding, second.line)

    assert first.holding.ended == "closed"
    assert (first.holding.booked, first.holding.entry, ledger.root.used) == (0, None, 0)
    assert first.holding.node.holdings == {}
    assert len(ledger.root_scope.index) == 0
    check_books(ledger)


def test_a_dropped_handle_counts_as_closed() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    ledger.add_handle(who.holding, who.line)

    ledger.drop_handle(who.holding)
    assert who.holding.live
    ledger.drop_handle(who.holding)
    assert who.holding.ended == "closed"
    assert ledger.root.used == 0


def test_ending_tells_what_was_freed_and_happens_once() -> None:
    """F7: usage drops exactly once."""
    ledger = ledger_of()
    who, other = member(ledger, "who", 10), member(ledger, "other", 5)

    assert ledger.end(who.holding, "destroyed") == 10
    assert ledger.end(who.holding, "again") == 0
    assert who.holding.ended == "destroyed"
    assert (ledger.root.used, who.holding.node.used, who.holding.node.returned) == (5, 0, 10)
    assert other.holding.live
    check_books(ledger)


def test_a_holding_of_a_closed_account_does_not_end_again() -> None:
    """F7: what is written off with the account is not written off twice."""
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    close_account(ledger, who.holding.node, CloseReason(CloseKind.CLOSED, "who", "closed by hand", 0.0))

    assert ledger.end(who.holding, "closed") == 0
    assert ledger.root.used == 0
    ledger.detach(who.holding, "oldest_data raised ValueError")
    assert ledger.counts.detached == 0
    assert events_of(ledger, ParticipationEnded) == []


def test_a_participant_that_failed_is_detached_and_that_is_told() -> None:
    """P5: its bytes are written off."""
    ledger = ledger_of()
    who = member(ledger, "who", 10)

    ledger.detach(who.holding, "oldest_data raised ValueError")
    ledger.detach(who.holding, "again")

    assert who.holding.ended == "oldest_data raised ValueError"
    assert ledger.counts.detached == 1
    assert events_of(ledger) == [ParticipationEnded("who", "who", "oldest_data raised ValueError", 10)]
    assert ledger.root.used == 0


def test_a_handle_that_was_never_used_closes() -> None:
    ledger = ledger_of()
    who = member(ledger, "who")
    ledger.close_handle(who.holding, who.line)

    assert who.holding.ended == "closed"
    assert isinstance(who.line, CreditLine)
