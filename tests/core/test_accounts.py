"""Opening, linking, configuring and closing accounts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota._core.accounts import add_parent, close_account, open_account, reconfigure
from memquota._core.checks import check_books
from memquota._core.events import AccountClosing, CloseKind, CloseReason, LimitsChanged
from memquota._core.graph import AccountNode
from memquota._core.ledger import Ledger
from memquota._core.limits import Limits
from memquota.errors import QuotaExceeded, UsageValueError
from tests.core.support import Member, account, events_of, ledger_of, member

MIB = 1024 * 1024


def reason(name: str = "account", when: float = 5.0) -> CloseReason:
    return CloseReason(CloseKind.CLOSED, name, "closed by hand", when)


def scope_of(node: AccountNode) -> tuple[int, int]:
    assert node.scope is not None
    return node.scope.credit_out, len(node.scope.index)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_new_account_is_below_its_parent() -> None:
    ledger = ledger_of()
    limits = Limits(100)
    top = open_account(ledger, "top", ledger.root)
    below = open_account(ledger, "below", top, limits=limits, minimum=7, priority=-2, opened_at="app.py:7")

    assert list(ledger.accounts) == [ledger.root, top, below]
    assert below.parents == (top,)
    assert list(top.children or ()) == [below]
    assert list(ledger.root.children or ()) == [top]
    assert below.scope is not None
    assert below.scope.limits is limits
    assert (below.name, below.minimum, below.priority, below.opened_at) == ("below", 7, -2, "app.py:7")
    assert (top.scope, top.minimum, top.priority, top.opened_at) == (None, 0, 0, "")
    assert ledger.root.opened_at == ""
    check_books(ledger)


# --- several parents --------------------------------------------------------------------------------------------------


def test_what_is_below_counts_in_the_new_parent_from_now_on() -> None:
    ledger = ledger_of(32 * MIB)
    first = account(ledger, "first", limit=MIB)
    second = account(ledger, "second", limit=MIB)
    who = member(ledger, "who", 500, parent=first)
    below = member(ledger, "below", 300, parent=who.holding.node)
    version = ledger.version

    add_parent(ledger, who.holding.node, second)

    assert who.holding.node.parents == (first, second)
    assert second.used == first.used == who.holding.booked + below.holding.booked
    assert scope_of(second) == scope_of(first) == (who.holding.cap + below.holding.cap, 2)
    assert ledger.root.used == second.used
    assert ledger.version == version + 1
    check_books(ledger)
    who.claim(10_000)
    assert second.used == first.used == ledger.root.used
    check_books(ledger)


def test_an_account_that_was_directly_below_the_tracker_is_below_it_through_its_new_parent() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    parent = account(ledger, "parent")

    add_parent(ledger, who.holding.node, parent)

    assert who.holding.node.parents == (parent,)
    assert list(ledger.root.children or ()) == [parent]
    assert list(parent.children or ()) == [who.holding.node]
    assert ledger.root.used == parent.used == 10
    check_books(ledger)


def test_a_diamond_counts_once() -> None:
    """P1: an account's use is that of its descendants, each once."""
    ledger = ledger_of()
    top = account(ledger, "top", limit=900)
    left, right = account(ledger, "left", top), account(ledger, "right", top)
    who = member(ledger, "who", 10, parent=left)

    add_parent(ledger, who.holding.node, right)
    who.claim(5)

    assert (top.used, left.used, right.used, ledger.root.used) == (15, 15, 15, 15)
    assert scope_of(top) == (0, 1)
    check_books(ledger)


def test_an_account_inside_that_is_there_already_is_not_counted_again() -> None:
    """P1: where accounts below have several parents, each is looked at by itself."""
    ledger = ledger_of()
    parent = account(ledger, "parent", limit=900)
    moved = account(ledger, "moved")
    inside = member(ledger, "inside", 10, parent=moved)
    both = member(ledger, "both", 20, parent=moved)
    member(ledger, "empty", 0, parent=moved)
    add_parent(ledger, both.holding.node, parent)
    assert parent.used == 20

    add_parent(ledger, moved, parent)

    assert (parent.used, moved.used, ledger.root.used) == (30, 30, 30)
    assert scope_of(parent) == (0, 2)
    assert inside.holding.node.used == 10
    check_books(ledger)


def test_a_new_parent_that_passes_its_limit_is_looked_at() -> None:
    ledger = ledger_of()
    exactly, over = account(ledger, "exactly", limit=10), account(ledger, "over", limit=9)
    who = member(ledger, "who", 10)

    add_parent(ledger, who.holding.node, exactly)
    assert not ledger.strained
    add_parent(ledger, who.holding.node, over)
    assert list(ledger.strained) == [over]


def test_an_account_is_not_put_below_the_same_parent_twice() -> None:
    """F27: a duplicate is refused and changes nothing."""
    ledger = ledger_of()
    parent = account(ledger, "parent")
    child = account(ledger, "child", parent)

    with pytest.raises(UsageValueError) as caught:
        add_parent(ledger, child, parent)

    assert str(caught.value) == "account 'parent' is a parent of 'child' already"
    assert child.parents == (parent,)
    check_books(ledger)


def test_cycles_are_refused() -> None:
    """F26: itself, its child, and a descendant 10,000 deep; nothing changes."""
    ledger = ledger_of()
    top = deepest = account(ledger, "top")
    child = account(ledger, "child", top)
    for _ in range(10_000):
        deepest = account(ledger, "deep", deepest)
    version = ledger.version

    for parent, name in ((top, "top"), (child, "child"), (deepest, "deep")):
        with pytest.raises(UsageValueError) as caught:
            add_parent(ledger, top, parent)
        assert str(caught.value) == f"account 'top' is '{name}' or above it: no cycles"
    assert top.parents == (ledger.root,)
    assert ledger.version == version


def test_a_hard_limit_above_the_new_parent_refuses() -> None:
    """P3, P8: and nothing changes."""
    ledger = ledger_of()
    outer = account(ledger, "outer", hard_limit=15)
    parent = account(ledger, "parent", outer)
    fits, too_much = member(ledger, "fits", 15), member(ledger, "too much", 16)
    version = ledger.version

    with pytest.raises(QuotaExceeded) as caught:
        add_parent(ledger, too_much.holding.node, parent)
    assert (caught.value.account, caught.value.asked, caught.value.used, caught.value.limit) == ("too much", 16, 0, 15)
    assert too_much.holding.node.parents == (ledger.root,)
    assert (outer.used, parent.used, ledger.version) == (0, 0, version)

    add_parent(ledger, fits.holding.node, parent)
    assert outer.used == 15
    check_books(ledger)


def test_a_hard_limit_refuses_what_only_all_of_a_subtree_passes() -> None:
    """P3: what comes in by several ways is added up before it is judged."""
    ledger = ledger_of()
    parent = account(ledger, "parent", hard_limit=25)
    moved, beside = account(ledger, "moved"), account(ledger, "beside")
    for name in ("one", "two", "three"):
        add_parent(ledger, member(ledger, name, 10, parent=moved).holding.node, beside)

    with pytest.raises(QuotaExceeded) as caught:
        add_parent(ledger, moved, parent)

    assert (caught.value.asked, caught.value.used) == (30, 0)
    assert parent.used == 0
    check_books(ledger)


def test_an_account_that_holds_nothing_is_taken_also_where_nothing_more_fits() -> None:
    ledger = ledger_of()
    parent = account(ledger, "parent", hard_limit=25)
    ledger.claim_own(parent, 25, 0.0)
    reconfigure(ledger, parent, Limits(None, None, 20), 0, 0)
    empty = account(ledger, "empty")

    add_parent(ledger, empty, parent)

    assert empty.parents == (parent,)


# --- configuration ----------------------------------------------------------------------------------------------------


def test_limits_are_replaced() -> None:
    ledger = ledger_of()
    node = account(ledger, limit=100)
    scope, version = node.scope, ledger.version

    reconfigure(ledger, node, Limits(200, None, 300), 5, 0)

    assert node.scope is scope
    assert scope is not None
    assert scope.limits == Limits(200, None, 300)
    assert node.minimum == 5
    assert ledger.version == version + 1
    assert list(ledger.events) == [LimitsChanged("account", 200, 150, 300)]
    assert not ledger.strained


def test_a_limit_below_what_is_held_strains() -> None:
    ledger = ledger_of()
    node = member(ledger, "who", 100).holding.node

    reconfigure(ledger, node, Limits(100), 0, 0)
    assert not ledger.strained
    reconfigure(ledger, node, Limits(99), 0, 0)
    assert list(ledger.strained) == [node]
    check_books(ledger)


def test_other_limits_are_passed_or_not_at_once() -> None:
    ledger = ledger_of()
    node = member(ledger, "who", 100).holding.node
    found = []

    for limit in (100, 99, 120, 133, 134, 120):
        reconfigure(ledger, node, Limits(limit), 0, 0)
        assert node.scope is not None
        found.append(node.scope.passed)
        check_books(ledger)

    assert found == [False, True, True, True, False, False]


def test_what_comes_below_an_account_may_pass_its_limit() -> None:
    ledger = ledger_of()
    node, parent = member(ledger, "who", 100).holding.node, account(ledger, "parent", limit=99)

    add_parent(ledger, node, parent)

    assert parent.scope is not None
    assert parent.scope.passed
    close_account(ledger, node, CloseReason(CloseKind.CLOSED, "who", "by hand", 0.0))
    assert not parent.scope.passed
    check_books(ledger)


def test_limits_that_appear_take_in_what_is_below() -> None:
    ledger = ledger_of(32 * MIB)
    top = account(ledger, "top")
    who = member(ledger, "who", 100, parent=top)
    own = account(ledger, "own", top)
    ledger.claim_own(own, 50, 1.0)
    idle = member(ledger, "idle", parent=top)
    who.claim(1)

    reconfigure(ledger, top, Limits(MIB), 0, 0)

    assert scope_of(top) == (who.holding.cap, 2)
    check_books(ledger)
    idle.claim(10)
    assert scope_of(top)[1] == 3
    check_books(ledger)


def test_limits_that_go_leave_nothing_behind() -> None:
    ledger = ledger_of()
    top = account(ledger, "top", limit=100, hard_limit=100)
    who = member(ledger, "who", 100, parent=top)

    reconfigure(ledger, top, None, 0, 0)
    who.claim(50)

    assert top.scope is None
    assert events_of(ledger) == [LimitsChanged("top", None, None, None)]
    check_books(ledger)


def test_a_new_priority_moves_the_candidates() -> None:
    ledger = ledger_of()
    first, second = member(ledger, "first", 10, age=1.0), member(ledger, "second", 10, age=2.0)
    member(ledger, "idle")
    node = first.holding.node
    assert next(iter(ledger.root_scope.index))[3] is first.holding

    reconfigure(ledger, node, None, 0, 7)

    assert first.holding.entry == (7, 1.0, 1, first.holding)
    assert next(iter(ledger.root_scope.index))[3] is second.holding
    check_books(ledger)
    reconfigure(ledger, node, None, 0, 7)
    reconfigure(ledger, second.holding.node, None, 0, 8)
    assert next(iter(ledger.root_scope.index))[3] is first.holding
    check_books(ledger)


def test_a_priority_is_also_taken_by_accounts_that_hold_nothing() -> None:
    ledger = ledger_of()
    who = member(ledger, "who")
    reconfigure(ledger, who.holding.node, None, 0, 3)
    who.claim(1)

    assert who.holding.entry is not None
    assert who.holding.entry[0] == 3


# --- closing ----------------------------------------------------------------------------------------------------------


def test_closing_forgets_what_is_held_by_all_below() -> None:
    ledger = ledger_of(32 * MIB)
    top = account(ledger, "top", limit=MIB)
    who = member(ledger, "who", 100, parent=top)
    below = member(ledger, "below", 50, parent=who.holding.node)
    other = member(ledger, "other", 30, parent=top)
    size = who.holding.booked + below.holding.booked

    freed = close_account(ledger, who.holding.node, reason("who"))

    assert freed == size
    assert top.used == ledger.root.used == other.holding.booked
    assert top.scope is not None
    assert top.scope.credit_out == other.holding.cap
    assert [node.name for node in ledger.accounts] == ["tracker", "top", "other"]
    assert list(top.children or ()) == [other.holding.node]
    assert not who.holding.live
    assert not below.holding.live
    assert list(ledger.debris) == [who.holding, below.holding]
    check_books(ledger)


def test_reasons_say_which_account_was_closed_itself() -> None:
    ledger = ledger_of()
    top = account(ledger, "top")
    below = account(ledger, "below", top)
    ledger.claim_own(below, 5, 0.0)
    why = reason("top")

    close_account(ledger, top, why)

    along = CloseReason(CloseKind.CLOSED, "top", "closed with 'top': closed by hand", 5.0)
    assert top.ended is why
    assert below.ended == along
    assert list(ledger.ended) == [top, below]
    assert events_of(ledger) == [AccountClosing("top", why, 0), AccountClosing("below", along, 5)]


def test_closing_twice_is_closing_once() -> None:
    """F7: usage drops exactly once."""
    ledger = ledger_of()
    who, other = member(ledger, "who", 10), member(ledger, "other", 5)

    assert close_account(ledger, who.holding.node, reason()) == 10
    assert close_account(ledger, who.holding.node, reason()) == 0
    assert ledger.root.used == other.holding.booked == 5
    assert list(ledger.ended) == [who.holding.node]


def test_a_closed_account_is_not_strained_any_more() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10, limit=9)
    assert ledger.strained
    close_account(ledger, who.holding.node, reason())

    assert not ledger.strained


def test_an_account_goes_from_all_its_parents() -> None:
    ledger = ledger_of()
    left, right = account(ledger, "left", limit=500), account(ledger, "right")
    who = member(ledger, "who", 10, parent=left)
    add_parent(ledger, who.holding.node, right)

    close_account(ledger, who.holding.node, reason())

    assert (left.used, right.used, ledger.root.used) == (0, 0, 0)
    assert left.children == right.children == {}
    check_books(ledger)


def test_a_member_with_a_parent_outside_leaves_that_too() -> None:
    """P1: each is taken out of what is above it, once."""
    ledger = ledger_of(32 * MIB)
    closing, outside = account(ledger, "closing"), account(ledger, "outside", limit=MIB)
    both = member(ledger, "both", 10, parent=closing)
    member(ledger, "inside", 20, parent=closing)
    deeper = member(ledger, "deeper", 40, parent=both.holding.node)
    add_parent(ledger, both.holding.node, outside)
    stays = member(ledger, "stays", 80, parent=outside)

    close_account(ledger, closing, reason())

    assert (outside.used, ledger.root.used) == (stays.holding.booked, stays.holding.booked)
    assert scope_of(outside)[0] == stays.holding.cap
    assert deeper.holding.node.ended is not None
    check_books(ledger)


def test_entries_that_a_closed_account_leaves_are_swept_a_few_at_a_time() -> None:
    """P11: closing a large account does not hold the lock for all its entries; who ended first is swept first."""
    ledger = ledger_of(32 * MIB)
    top = account(ledger, "top")
    members = [member(ledger, f"m{number}", 1, parent=top) for number in range(300)]
    member(ledger, "idle", parent=top)
    stays = member(ledger, "stays", 1)
    close_account(ledger, top, reason())
    assert (len(ledger.debris), len(ledger.root_scope.index)) == (300, 301)

    ledger.sweep()
    assert (len(ledger.debris), len(ledger.root_scope.index)) == (44, 45)
    assert list(ledger.debris) == [who.holding for who in members[-44:]]
    check_books(ledger)
    ledger.sweep()
    assert (len(ledger.debris), list(ledger.root_scope.index)) == (0, [stays.holding.entry])
    ledger.sweep()


def test_closing_the_root_closes_everything() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10)
    why = CloseReason(CloseKind.TRACKER_CLOSED, "tracker", "tracker 'tracker' was closed", 1.0)

    assert close_account(ledger, ledger.root, why) == 10
    assert not ledger.accounts
    assert who.holding.node.ended is not None
    assert who.holding.node.ended.kind is CloseKind.TRACKER_CLOSED
    check_books(ledger)


def test_nothing_of_closed_children_stays_with_their_parent() -> None:
    """F31: a parent that lives on does not grow."""
    ledger = ledger_of(10**9)
    top = account(ledger, "top", limit=10**9)
    for number in range(1000):
        child = account(ledger, f"child-{number}", top)
        ledger.claim_own(child, 1, 0.0)
        close_account(ledger, child, reason())
        ledger.sweep()

    assert top.children == {}
    assert list(ledger.accounts) == [ledger.root, top]
    assert scope_of(top) == (0, 0)
    assert not ledger.debris


# --- all of it --------------------------------------------------------------------------------------------------------

moves = st.lists(
    st.tuples(
        st.sampled_from(["open", "link", "claim", "claim", "release", "own", "end", "close", "limit", "priority"]),
        st.integers(0, 30),
        st.integers(0, 30),
        st.integers(0, 400) | st.integers(0, 20_000),
    ),
    max_size=50,
)


@given(moves)
def test_sums_are_right_in_every_graph(moves: list[tuple[str, int, int, int]]) -> None:
    """P1: against a model that knows who claimed what and who is below whom, and adds up by walking."""
    ledger = ledger_of(MIB)
    nodes = [account(ledger, f"n{number}") for number in range(3)]
    members = [Member(ledger, node) for node in nodes]
    own: dict[AccountNode, int] = {}
    for what, one, other, size in moves:
        node, partner, who = nodes[one % len(nodes)], nodes[other % len(nodes)], members[one % len(members)]
        match what:
            case "open" if node.ended is None:
                nodes.append(account(ledger, f"n{len(nodes)}", node, limit=size or None, hard_limit=None))
                members.append(Member(ledger, nodes[-1]))
            case "link" if node.ended is None and partner.ended is None:
                above = above_by_walking(partner)
                allowed = node not in above and partner not in node.parents
                try:
                    add_parent(ledger, node, partner)
                    assert allowed
                except UsageValueError:
                    assert not allowed
            case "claim" if who.holding.live:
                who.claim(size)
            case "release" if who.holding.live:
                who.release(min(size, who.told))
            case "own" if node.ended is None:
                ledger.claim_own(node, size, float(other))
                own[node] = own.get(node, 0) + size
            case "end":
                ledger.end(who.holding, "destroyed")
            case "close":
                close_account(ledger, node, reason())
            case "limit" if node.ended is None:
                reconfigure(ledger, node, Limits(size) if size else None, other, node.priority)
            case "priority" if node.ended is None:
                reconfigure(ledger, node, node.scope.limits if node.scope else None, 0, size % 3)
            case _:
                pass
        ledger.events.clear()
        if other == 30:
            ledger.sweep()

        check_books(ledger)
        assert_sums(ledger, members, own)


def above_by_walking(node: AccountNode) -> set[AccountNode]:
    found = {node}
    for parent in node.parents:
        found |= above_by_walking(parent)
    return found


def assert_sums(ledger: Ledger, members: list[Member], own: dict[AccountNode, int]) -> None:
    told = dict.fromkeys(ledger.accounts, 0)
    credit = dict(told)
    for who in members:
        if who.holding.live:
            for above in above_by_walking(who.holding.node):
                told[above] += who.told
                credit[above] += who.credit
    for node, size in own.items():
        if node.ended is None:
            for above in above_by_walking(node):
                told[above] += size
    assert {node: node.used - credit[node] for node in ledger.accounts} == told
    for node in ledger.accounts:
        if node.scope is not None and node.scope.limits.over(node.used):
            assert node in ledger.strained
