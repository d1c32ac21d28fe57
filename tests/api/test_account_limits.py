"""Limits of accounts at several levels, priorities and protected minimums."""

import pytest

from memquota import MemoryReclaimed, QuotaExceeded
from memquota.observe import RoundEnded, RoundOutcome, RoundStarted, VictimAsked
from memquota.testing import assert_books_balance
from tests.api.support import World


def names(world: World) -> list[str]:
    return [event.account for event in world.told(VictimAsked)]


# --- limits of their own ----------------------------------------------------------------------------------------------


def test_over_the_limit_of_an_account_only_its_subtree_is_asked() -> None:
    """Down to 75 % of that limit; whoever is older elsewhere is left in peace."""
    world = World("1GiB")
    older = world.holder("older", 5000)
    peer = world.tracker.new_account("peer", limit=1000)
    streams = [world.holder(f"stream-{n}", 125, parent=peer) for n in range(8)]

    streams[-1].put(1)

    assert names(world) == ["stream-0", "stream-1", "stream-2"]
    assert older.surveys == 0
    assert not peer.closed
    (started,) = world.told(RoundStarted)
    assert (started.scope, started.limit, started.target) == ("peer", 1000, 750)
    assert 626 <= peer.used <= 626 + 1000 // 32


def test_an_account_that_holds_too_much_itself_is_the_victim() -> None:
    world = World("1GiB")
    holder = world.holder("peer", 600, limit=1000)

    with pytest.raises(MemoryReclaimed, match=r"^account 'peer' gave up its memory: "):
        holder.put(401)

    assert world.tracker.used == 0


def test_limits_are_served_from_accounts_to_the_tracker(world: World) -> None:
    """The tracker's own round comes when the accounts' are over, and only if it is still needed."""
    older = world.holder("older", 700)
    peer = world.tracker.new_account("peer", limit=200)
    first, second = (world.holder(name, 100, parent=peer) for name in ("first", "second"))

    second.put(30)
    assert names(world) == ["first"]
    assert first.account.closed
    world.holder("third", 150)
    second.put(60)

    assert names(world) == ["first", "older"]
    assert older.account.closed
    assert [event.scope for event in world.told(RoundStarted)] == ["peer", "tracker"]
    assert world.tracker.used == 340


def test_the_tracker_is_served_in_the_same_go_where_it_is_still_over(world: World) -> None:
    older = world.holder("older", 950)
    peer = world.tracker.new_account("peer", limit=100)
    first, second = world.holder("first", 40, parent=peer), world.holder("second", 10, parent=peer)

    second.put(60)

    assert [(event.scope, event.outcome) for event in world.told(RoundEnded)] == [
        ("peer", RoundOutcome.DONE),
        ("tracker", RoundOutcome.DONE),
    ]
    assert [one.account.closed for one in (older, first, second)] == [True, True, False]


def test_nested_limits_each_have_their_round() -> None:
    """The inner one first; a claim returns when all were served."""
    world = World("1GiB")
    outer = world.tracker.new_account("outer", limit=1000)
    inner = outer.new_child("inner", limit=400)
    beside = world.holder("beside", 800, parent=outer)
    first, second = world.holder("first", 150, parent=inner), world.holder("second", 50, parent=inner)

    second.put(230)

    assert [event.scope for event in world.told(RoundStarted)] == ["inner", "outer"]
    assert names(world) == ["first", "beside"]
    assert [one.account.closed for one in (beside, first, second)] == [True, True, False]
    assert inner.used == outer.used == 280


@pytest.mark.parametrize("inner_first", [False, True])
def test_an_inner_limit_comes_first_whichever_way_its_victim_is_below_both(inner_first: bool) -> None:
    """P10: what goes for the inner one is enough for the outer one too, where an older one has done nothing."""
    world = World("1GiB")
    outer = world.tracker.new_account("outer", limit=1000)
    inner = outer.new_child("inner", limit=500)
    older = world.holder("older", 600, parent=outer)
    claims = world.holder("claims")
    for parent in (inner, outer) if inner_first else (outer, inner):
        claims.account.add_parent(parent)

    with pytest.raises(MemoryReclaimed):
        claims.put(510)

    assert [event.scope for event in world.told(RoundStarted)] == ["inner"]
    assert not older.account.closed
    assert outer.used == 600


def test_an_account_below_two_limits_counts_in_both() -> None:
    """A diamond whose sides have limits: each is served by what is below it."""
    world = World("1GiB")
    left, right = world.tracker.new_account("left", limit=1000), world.tracker.new_account("right", limit=500)
    shared = world.holder("shared", 300, parent=left)
    shared.account.add_parent(right)
    own = world.holder("own", 150, parent=right)

    own.put(60)

    assert shared.account.closed
    assert left.used == 0
    assert right.used == own.held == 210
    assert_books_balance(world.tracker, 210)


def test_a_hard_limit_of_an_account_refuses_without_a_round() -> None:
    world = World("1GiB")
    peer = world.tracker.new_account("peer", limit=1000, hard_limit=1000)
    holder = world.holder("stream", 900, parent=peer)

    with pytest.raises(QuotaExceeded, match=r"^claim of 101 B by 'stream' refused: 900 B used of 1000 B; largest"):
        holder.put(101)

    assert world.told(RoundStarted) == []
    assert holder.participation.used == 900


def test_the_limit_of_a_parent_holds_as_long_as_a_child(world: World) -> None:
    """P7: a limit never vanishes because nobody held the parent."""
    parent = world.tracker.new_account("parent", limit=100)
    first = world.holder("first", 60, parent=parent)
    second = world.holder("second", 30, parent=parent)
    del parent

    second.put(20)

    assert first.account.closed
    assert not second.account.closed


# --- priority ---------------------------------------------------------------------------------------------------------


def test_a_larger_priority_is_asked_later(any_policy: World) -> None:
    """Whatever the age or the size."""
    world = any_policy
    last = world.holder("last", 400, priority=2)
    middle = world.holder("middle", 300, priority=0)
    first = world.holder("first", 100, priority=-1)

    world.tracker.reclaim(700)
    assert names(world) == ["first"]
    world.tracker.reclaim(600)
    assert names(world) == ["first", "middle"]
    world.tracker.reclaim(0)

    assert names(world) == ["first", "middle", "last"]
    assert [one.account.closed for one in (last, middle, first)] == [True, True, True]


def test_whose_turn_is_later_does_not_bound_what_others_discard(world: World) -> None:
    """An older candidate of a larger priority is no reason to keep newer data."""
    world.holder("important", 400, priority=1)
    victim = world.holder("victim", 400, answer="partial")

    world.tracker.reclaim(500)

    assert victim.requests[0].newest_to_discard == float("inf")
    assert world.tracker.used == 400


def test_a_priority_can_change_while_running(any_policy: World) -> None:
    world = any_policy
    first, second = world.holder("first", 300), world.holder("second", 299)

    first.account.reconfigure(priority=5)
    world.tracker.reclaim(300)
    assert names(world) == ["second"]

    assert first.account.priority == 5
    assert not first.account.closed
    assert second.account.closed


# --- minimum ----------------------------------------------------------------------------------------------------------


def test_an_account_at_its_minimum_is_never_chosen(any_policy: World) -> None:
    """One byte above, it is a victim like any other."""
    world = any_policy
    protected = world.holder("protected", 300, minimum=300)
    other = world.holder("other", 300)

    world.tracker.reclaim(0)
    assert [one.account.closed for one in (protected, other)] == [False, True]
    assert protected.surveys == 0
    protected.put(1)
    world.tracker.reclaim(0)

    assert protected.account.closed


def test_a_minimum_counts_what_is_below(world: World) -> None:
    """An account's usage is that of its subtree."""
    parent = world.holder("parent", 100, minimum=150)
    child = world.holder("child", 60, parent=parent.account)
    world.tracker.reclaim(100)

    assert parent.account.closed
    assert child.account.closed


def test_a_protected_account_goes_with_a_parent_that_is_chosen(world: World) -> None:
    parent = world.holder("parent", 300)
    protected = world.holder("protected", 100, parent=parent.account, minimum=1000)
    other = world.holder("other", 300)

    world.tracker.reclaim(300)

    assert [one.account.closed for one in (parent, protected, other)] == [True, True, False]
    assert len(protected.requests) == 1


def test_a_child_is_chosen_though_its_parent_is_protected(world: World) -> None:
    """The minimum is the account's own: it protects from being chosen, nothing below."""
    parent = world.holder("parent", 300, minimum=1000)
    child = world.holder("child", 100, parent=parent.account)

    world.tracker.reclaim(0)

    assert [one.account.closed for one in (parent, child)] == [False, True]


def test_priority_and_minimum_together(any_policy: World) -> None:
    """The protected are passed over at any priority; the rest goes by priority."""
    world = any_policy
    world.holder("protected first", 100, priority=-5, minimum=100)
    world.holder("important", 100, priority=5)
    world.holder("protected last", 100, priority=9, minimum=101)
    world.holder("usual", 100)

    ended = world.tracker.reclaim(0)

    assert names(world) == ["usual", "important"]
    assert ended is not None
    assert (ended.outcome, ended.used) == (RoundOutcome.NOBODY_LEFT, 200)


def test_a_minimum_protects_within_the_round_of_its_parent() -> None:
    """Also against the parent's own limit."""
    world = World("1GiB")
    parent = world.tracker.new_account("parent", limit=1000)
    protected = world.holder("protected", 800, parent=parent, minimum=900)
    other = world.holder("other", 150, parent=parent)

    with pytest.raises(MemoryReclaimed):
        other.put(100)

    assert not protected.account.closed
    assert parent.used == 800
    assert world.told(RoundEnded)[-1].outcome is RoundOutcome.NOBODY_LEFT
