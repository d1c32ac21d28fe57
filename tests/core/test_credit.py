"""Credit: how much of it handles get, and that all of it together stays within 1/32 of every limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota._core.accounts import reconfigure
from memquota._core.checks import check_books
from memquota._core.graph import AccountNode
from memquota._core.ledger import IdleLedger, Ledger
from memquota._core.limits import Limits
from memquota.errors import QuotaExceeded
from tests.core.support import Handle, Member, account, ledger_of, member

KIB = 1024
MIB = 1024 * 1024


def test_a_small_claim_brings_credit_for_many_more() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)

    assert who.credit == 8 * KIB
    assert who.holding.booked == 100 + 8 * KIB
    assert who.holding.cap == who.line._cap == 100 + 8 * KIB
    assert ledger.root_scope.credit_out == 100 + 8 * KIB
    assert who.in_use == 100
    check_books(ledger)


def test_who_is_asked_for_memory_gets_no_credit_meanwhile() -> None:
    """P10: what it gives back is off the books at once, and nobody else is asked in vain."""
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 40 * KIB)
    who.holding.node.asked = True

    ledger.release(who.holding, who.line, 10 * KIB)
    assert (who.credit, who.holding.booked, who.holding.cap) == (0, 30 * KIB, 0)
    who.claim(KIB)
    assert (who.credit, who.holding.booked) == (0, 31 * KIB)

    who.holding.node.asked = False
    who.claim(KIB)
    assert who.credit == 16 * KIB // 2
    check_books(ledger)


def test_a_larger_claim_brings_credit_for_eight_of_its_size() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 2000)

    assert who.credit == 8 * 2000
    assert who.line._cap == 9 * 2000  # what is booked, less than sixteen times the claim


def test_the_cap_is_sixteen_claims_where_more_is_booked() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    who.claim(100 * KIB)
    who.claim(who.credit)  # takes all of it
    who.claim(100)

    assert who.holding.booked > 16 * KIB
    assert (who.credit, who.line._cap, who.holding.cap) == (8 * KIB, 16 * KIB, 16 * KIB)


def test_no_handle_gets_more_than_an_eighth_of_what_is_left() -> None:
    ledger = ledger_of(32 * MIB)
    first = member(ledger, "first", 1 * MIB)
    assert (first.credit, first.line._cap) == (64 * KIB, 128 * KIB)

    second = member(ledger, "second", 1 * MIB)
    left = MIB - 128 * KIB
    assert (second.credit, second.line._cap) == (left // 16, left // 8)


def test_what_a_handle_has_already_is_not_counted_against_it() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 1 * MIB)
    who.claim(who.credit + 1 * MIB)

    assert who.line._cap == 128 * KIB
    assert ledger.root_scope.credit_out == 128 * KIB


def test_credit_too_small_to_save_a_way_is_not_handed_out() -> None:
    """P2: small limits are exact."""
    exact, inexact = ledger_of(65_535), ledger_of(65_536)
    none, some = member(exact, "none", 1000), member(inexact, "some", 1000)

    assert (none.holding.booked, none.line._credit, none.line._cap) == (1000, -1, -2)
    assert (some.holding.booked, some.line._credit, some.line._cap) == (1128, 128, 256)


def test_above_low_water_no_credit_is_handed_out_and_what_is_out_goes_back_at_the_next_call() -> None:
    """P2: under pressure the books are exact, as handles come by."""
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    other = member(ledger, "other", 23 * MIB)
    assert who.credit
    assert other.credit

    other.claim(2 * MIB)
    assert (other.line._credit, other.line._cap, other.holding.cap) == (-1, -2, 0)

    who.claim(who.credit + 1)
    assert (who.line._credit, who.holding.cap, who.in_use) == (-1, 0, who.told)
    assert ledger.root_scope.credit_out == 0
    check_books(ledger)


def test_at_low_water_credit_is_handed_out_and_one_byte_above_not() -> None:
    ledger = ledger_of(32 * MIB)

    assert member(ledger, "at", 24 * MIB).credit > 0
    ledger = ledger_of(32 * MIB)
    assert member(ledger, "above", 24 * MIB + 1).credit == 0


def test_a_release_under_pressure_leaves_no_credit() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 30 * MIB)
    who.release(100)

    assert (who.line._credit, who.line._cap, who.holding.booked) == (-1, -2, 30 * MIB - 100)


def test_a_release_keeps_half_of_what_is_allowed_as_credit() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 10 * MIB)
    who.release(10 * KIB)  # the cap allows it
    assert who.credit == 64 * KIB + 10 * KIB
    who.release(64 * KIB)

    assert (who.credit, who.line._cap) == (64 * KIB, 128 * KIB)
    assert who.in_use == 10 * MIB - 74 * KIB
    check_books(ledger)


def test_a_handle_keeps_no_more_than_it_gave_back() -> None:
    ledger = ledger_of(32 * MIB)
    who = Member(ledger, account(ledger))
    other = Handle(ledger, who.holding)
    ledger.add_handle(who.holding, who.line)
    who.claim(100)
    ledger.close_handle(who.holding, other.line)
    who.release(60)

    assert (who.credit, who.holding.booked, who.in_use) == (60, 100, 40)


def test_release_of_all_leaves_credit_only() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    who.release(100)

    assert who.credit == who.holding.booked == 100 + 8 * KIB
    assert who.in_use == 0


def test_release_beyond_what_is_claimed_is_noticed_also_where_there_is_credit() -> None:
    """P9: the credit is not taken for claimed bytes."""
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    who.release(101)

    assert (ledger.counts.over_releases, ledger.counts.over_released_bytes) == (1, 1)
    assert who.in_use == 0


def test_a_strict_ledger_hands_out_no_credit() -> None:
    ledger = ledger_of(32 * MIB, strict=True)
    who = member(ledger, "who", 100)

    assert (who.holding.booked, who.line._credit, who.holding.cap) == (100, -1, 0)


def test_only_an_only_handle_has_credit() -> None:
    ledger = ledger_of(32 * MIB)
    first = member(ledger, "who", 100)
    ledger.add_handle(first.holding, first.line)
    second = Handle(ledger, first.holding)

    assert (first.line._credit, first.line._cap) == (-1, -2)
    assert (first.holding.booked, first.holding.cap, first.holding.handles) == (100, 0, 2)
    second.claim(100)
    first.claim(100)
    assert (first.credit, second.credit, first.holding.booked) == (0, 0, 300)

    ledger.close_handle(second.holding, second.line)
    first.claim(100)
    assert first.credit > 0
    check_books(ledger)


def test_the_credit_of_a_handle_goes_back_when_it_is_closed() -> None:
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    ledger.close_handle(who.holding, who.line)

    assert (ledger.root.used, ledger.root_scope.credit_out) == (0, 0)
    assert (who.line._credit, who.line._cap) == (-1, -2)


def test_credit_never_reaches_above_a_hard_limit() -> None:
    """P3: credit is booked, so it counts: no more than is left is handed out."""
    ledger = ledger_of(1 * MIB, 1 * MIB, 1 * MIB)
    who = member(ledger, "who", 1 * MIB - 1000)

    assert (who.credit, who.line._cap) == (500, 1000)
    assert ledger.root.used == 1 * MIB - 500


def test_a_hard_limit_alone_bounds_the_credit_below_it() -> None:
    """P2: 1/32 of it, in parts of an eighth."""
    ledger = ledger_of(32 * MIB)

    assert member(ledger, "who", 10 * KIB, hard_limit=1 * MIB).line._cap == 4 * KIB


def test_the_least_of_all_hard_limits_bounds_the_credit() -> None:
    ledger = ledger_of(1 * MIB, 1 * MIB, 1 * MIB)
    outer = account(ledger, "outer", limit=2 * MIB, hard_limit=2 * MIB)
    inner = account(ledger, "inner", outer, hard_limit=3 * MIB)
    who = Member(ledger, inner)
    who.claim(1 * MIB - 1000)

    assert (who.credit, who.line._cap) == (500, 1000)


def test_a_claim_that_the_credit_covers_moves_nothing() -> None:
    """The slow path also takes claims that fit, after a recall."""
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    who.line._cap = -2
    booked, credit = who.holding.booked, who.credit

    ledger.claim(who.holding, who.line, 40, 0.0)

    assert (who.holding.booked, who.credit, who.line._cap) == (booked, credit - 40, credit - 40)
    ledger.claim(who.holding, who.line, credit - 40, 0.0)
    assert (who.holding.booked, who.line._credit, who.line._cap, who.holding.cap) == (booked, -1, -2, 0)
    check_books(ledger)


def test_a_lowered_limit_takes_effect_at_the_next_slow_call() -> None:
    """P2: nothing new above the new limit's part."""
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 100)
    reconfigure(ledger, ledger.root, Limits(64 * KIB), 0, 0)
    assert ledger.root_scope.credit_out > ledger.root_scope.limits.credit

    who.claim(who.credit + 1)
    assert ledger.root_scope.credit_out <= ledger.root_scope.limits.credit


@pytest.mark.parametrize("handles", [1, 10, 1000])
def test_the_error_is_within_a_thirty_second_part_whatever_the_number_of_handles(handles: int) -> None:
    """P2: the sum of all credit is bounded, not that of each."""
    ledger = ledger_of(100 * MIB)
    limited = account(ledger, "limited", limit=10 * MIB)
    members = [Member(ledger, account(ledger, f"m{number}", limited)) for number in range(handles)]
    for who in members:
        who.claim(1000)

    for node, limit in ((ledger.root, 100 * MIB), (limited, 10 * MIB)):
        assert node.scope is not None
        assert node.scope.credit_out * 32 <= limit
        assert 0 <= node.used - sum(who.told for who in members) <= limit // 32
    check_books(ledger)


sizes = st.integers(0, 5000) | st.integers(0, 3 * MIB)
moves = st.lists(
    st.tuples(st.sampled_from(["claim", "release", "claim", "open", "second", "limit"]), st.integers(0, 7), sizes),
    max_size=60,
)


@given(
    moves,
    st.sampled_from([64 * KIB, 1 * MIB, 16 * MIB]),
    st.sampled_from([None, 300 * KIB]),
    st.sampled_from([None, 2 * MIB]),
)
def test_credit_stays_within_its_bounds_whatever_happens(
    moves: list[tuple[str, int, int]], limit: int, inner: int | None, hard: int | None
) -> None:
    """P2, P3: at every limit all credit together is 1/32 at most, or what was out when the limit was lowered."""
    ledger = ledger_of(limit)
    left = account(ledger, "left", limit=inner, hard_limit=hard)
    nodes: list[AccountNode] = [left, account(ledger, "right"), account(ledger, "below", left, limit=200 * KIB)]
    handles = [Member(ledger, node) for node in nodes]
    scoped = [node for node in (*nodes, ledger.root) if node.scope is not None]
    before = dict.fromkeys(scoped, 0)
    for what, which, size in moves:
        one = handles[which % len(handles)]
        if what == "open":
            handles.append(Member(ledger, nodes[which % len(nodes)]))
        elif what == "second":
            ledger.add_handle(one.holding, one.line)
            ledger.drop_handle(one.holding)
        elif what == "limit":
            reconfigure(ledger, ledger.root, Limits(max(64 * KIB, size)), 0, 0)
        elif what == "claim":
            try:
                one.claim(size)
            except QuotaExceeded:
                assert hard is not None
        else:
            one.release(min(size, one.told))

        check_books(ledger)
        for node in scoped:
            assert node.scope is not None
            limits, out = node.scope.limits, node.scope.credit_out
            assert out <= max(limits.credit, before[node])
            assert limits.hard_limit is None or node.used <= limits.hard_limit
            if not limits.relaxed(node.used) and what == "claim":
                assert out <= before[node] or limits.relaxed(node.used - one.credit)
            before[node] = out
        assert all(0 <= who.in_use == who.told for who in handles)


# --- a ledger that counts nothing -------------------------------------------------------------------------------------


def test_an_idle_ledger_counts_nothing() -> None:
    ledger = IdleLedger("tracker", Limits(2**62))
    who = member(ledger, "who")

    assert who.claim(2**61) is False
    who.release(2**62)
    who.release(2**62)
    assert ledger.claim_own(who.holding.node, 100, 0.0) is False
    ledger.release_own(who.holding.node, 200)

    assert (ledger.root.used, who.holding.booked, len(ledger.root_scope.index)) == (0, 0, 0)
    assert ledger.counts.over_releases == 0
    assert not ledger.events
    assert not ledger.strained
    check_books(ledger)


def test_an_idle_handle_stays_on_the_fast_path() -> None:
    ledger: Ledger = IdleLedger("tracker", Limits(2**62))
    who = member(ledger, "who")
    who.claim(1)

    assert (who.line._credit, who.line._cap) == (2**29, 2**30)
    who.claim(2**29)
    assert who.line._credit == 0
    who.claim(1)
    assert who.line._credit == 2**29
    who.release(2**29)
    assert who.line._credit == 2**30
    who.release(1)
    assert who.line._credit == 2**29

    ledger.add_handle(who.holding, who.line)
    ledger.close_handle(who.holding, who.line)
    ledger.close_handle(who.holding, who.line)
    assert not who.holding.live


def test_a_handle_keeps_its_credit_when_a_release_does_not_come_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(100 * MIB)
    who = member(ledger, "who", 5000)
    line, booked = who.line, who.holding.booked
    before = line._credit, line._cap

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_move", out_of_memory)
        with pytest.raises(MemoryError):
            ledger.release(who.holding, line, 4000)

    assert (line._credit, line._cap) == before
    assert who.holding.booked == booked
    check_books(ledger)
