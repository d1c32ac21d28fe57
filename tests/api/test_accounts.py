"""Accounts: opening, names, the graph, what a limit covers, what closes with what."""

from collections.abc import Callable
from typing import Any

import pytest

from memquota import (
    Account,
    AccountClosed,
    CloseKind,
    CloseReason,
    QuotaExceeded,
    Reclaimed,
    Tracker,
    TrackerClosed,
    UsageError,
)
from memquota.observe import AccountClosing
from memquota.testing import ScriptedParticipant, assert_books_balance
from tests.api.support import World, raises

# --- opening ----------------------------------------------------------------------------------------------------------


def test_an_account_tells_what_it_was_given(world: World) -> None:
    parent = world.tracker.new_account("parent", limit="8KiB", hard_limit=9000, minimum="1KiB", priority=-3)
    child = world.tracker.new_account("child", parent=parent)

    assert (parent.name, parent.limit, parent.hard_limit, parent.minimum, parent.priority) == (
        "parent",
        8192,
        9000,
        1024,
        -3,
    )
    assert (child.limit, child.hard_limit, child.minimum, child.priority) == (None, None, 0, 0)
    assert child.tracker is parent.tracker is world.tracker
    assert [account.parents for account in world.tracker.snapshot().accounts] == [("tracker",), ("parent",)]


def test_accounts_without_a_name_get_numbers(world: World) -> None:
    first = world.tracker.new_account()
    second = first.new_child("mine")
    third = second.new_child()

    assert [account.name for account in (first, second, third)] == ["account-1", "mine", "account-3"]


@pytest.mark.parametrize("name", ["", "same", "two\nlines", "\udcff", "x" * 100_000, "{}", "%s"])
def test_any_text_is_a_name(world: World, name: str) -> None:
    """Also one that another account has; and whatever it is, it can be logged and reported."""
    one, other = world.tracker.new_account(name), world.tracker.new_account(name)
    one.claim(2)
    with pytest.raises(UsageError):
        one.add_parent(one)

    one.release(5)
    one.close()

    assert other.name == name
    assert repr(other) == f"<Account {name!r}>"
    assert repr(one) == f"<Account {name!r}, closed>"


class Name(str):
    """Text with code of its own."""

    __slots__ = ()

    def _never(self, *_: object) -> Any:
        raise AssertionError("foreign code was run")

    __repr__ = __str__ = __format__ = __eq__ = __hash__ = _never


def test_names_run_no_code_of_their_own() -> None:
    """P6: a member of a StrEnum, say, is as good a name as its text."""
    tracker = Tracker(1000, name=Name("tracker-1"))
    account = tracker.new_account(Name("account-1"))
    account.close()

    assert type(account.name) is type(tracker.name) is str
    with raises(AccountClosed, "account 'account-1' is closed: closed by hand"):
        account.claim(1)
    assert repr(tracker) == "<Tracker 'tracker-1', 0 of 1000 bytes>"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": 7}, "an account's name must be text, not 7"),
        ({"name": b"x"}, "an account's name must be text, not b'x'"),
        ({"limit": 0}, "limit of 0 bytes is not between 1 and 2**62"),
        ({"limit": -1}, "limit must not be negative"),
        ({"limit": 1.5}, "limit must be a whole number of bytes or a text such as '512MiB', not float"),
        ({"limit": True}, "limit must be a whole number of bytes or a text such as '512MiB', not bool"),
        ({"limit": "512M"}, "limit '512M' is ambiguous: write '512MiB' or '512MB'"),
        ({"limit": 2**62 + 1}, "limit must not be above 4.0 EiB (2**62 bytes)"),
        ({"hard_limit": 0}, "hard limit of 0 bytes is not between 1 and 2**62"),
        (
            {"hard_limit": None, "limit": []},
            "limit must be a whole number of bytes or a text such as '512MiB', not list",
        ),
        ({"limit": 10, "hard_limit": 9}, "hard limit 9 is below the limit 10"),
        ({"minimum": -1}, "minimum must not be negative"),
        ({"minimum": None}, "minimum must be a whole number of bytes or a text such as '512MiB', not NoneType"),
        ({"minimum": False}, "minimum must be a whole number of bytes or a text such as '512MiB', not bool"),
        ({"priority": 1.0}, "a priority must be an int, not 1.0"),
        ({"priority": True}, "a priority must be an int, not True"),
        ({"priority": None}, "a priority must be an int, not None"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_opens_nothing(world: World, options: dict[str, Any], text: str) -> None:
    """P8: neither below the tracker nor below an account; the error says what is wrong."""
    parent = world.tracker.new_account("parent")
    before = world.books()

    for make in (world.tracker.new_account, parent.new_child):
        with pytest.raises(UsageError) as caught:
            make(**options)
        assert str(caught.value) == text

    assert world.books() == before


def test_a_parent_is_an_account_of_this_tracker(world: World) -> None:
    other = Tracker(1000).new_account("other")

    with raises(UsageError, "account 'other' belongs to another tracker"):
        world.tracker.new_account(parent=other)
    with raises(UsageError, "a parent must be an account, not 5"):
        world.tracker.new_account(parent=5)  # type: ignore[arg-type]


def test_nothing_opens_below_what_is_closed(world: World) -> None:
    """F27: neither below a closed account nor on a closed tracker."""
    parent = world.tracker.new_account("parent")
    child = parent.new_child("child")
    parent.close()

    for closed in (parent, child):
        with pytest.raises(AccountClosed):
            closed.new_child()
        with pytest.raises(AccountClosed):
            world.tracker.new_account(parent=closed)
    world.tracker.close()
    with raises(TrackerClosed, "account 'tracker': tracker 'tracker' was closed"):
        world.tracker.new_account()


def test_accounts_are_made_by_trackers_only() -> None:
    with pytest.raises(TypeError, match=r"accounts are made by Tracker.new_account"):
        Account()


# --- several parents --------------------------------------------------------------------------------------------------


def test_a_diamond_counts_once(world: World) -> None:
    """P1: whatever the number of ways up."""
    top = world.tracker.new_account("top")
    left, right = top.new_child("left"), top.new_child("right")
    bottom = left.new_child("bottom")
    bottom.claim(100)

    bottom.add_parent(right)
    bottom.claim(11)
    left.claim(5)

    assert [one.used for one in (bottom, right, left, top)] == [111, 111, 116, 116]
    assert world.tracker.used == 116
    bottom.release(11)
    assert [one.used for one in (bottom, right, left, top)] == [100, 100, 105, 105]
    assert_books_balance(world.tracker, 105)


def test_bytes_move_along_with_a_whole_subtree(world: World) -> None:
    """P1: what is below counts above the new parent from now on, where it did not already."""
    old, new = world.tracker.new_account("old"), world.tracker.new_account("new")
    above = world.tracker.new_account("above")
    new.add_parent(above)
    node = old.new_child("node")
    both = node.new_child("both")
    both.add_parent(new)
    node.claim(10)
    both.claim(1)
    assert (old.used, new.used, above.used) == (11, 1, 1)

    node.add_parent(new)

    assert (old.used, new.used, above.used, world.tracker.used) == (11, 11, 11, 11)
    assert_books_balance(world.tracker, 11)


def test_a_limit_above_a_new_parent_is_served_at_once(world: World) -> None:
    """A subtree that comes below a limit it passes is reclaimed, before the next claim."""
    narrow = world.tracker.new_account("narrow", limit=100)
    holder = world.holder("wide", 300)

    holder.account.add_parent(narrow)

    assert holder.account.closed
    assert narrow.used == 0
    assert not narrow.closed


def test_a_hard_limit_above_a_new_parent_refuses(world: World) -> None:
    """P8: and nothing is as it would have been."""
    narrow = world.tracker.new_account("narrow", hard_limit=100)
    narrow.claim(40)
    wide = world.tracker.new_account("wide")
    deep = wide.new_child("deep")
    deep.claim(61)
    before = world.books()

    with raises(QuotaExceeded, "claim of 61 B by 'wide' refused: 40 B used of 100 B"):
        wide.add_parent(narrow)

    assert world.books() == before
    assert narrow.used == 40
    deep.release(1)
    wide.add_parent(narrow)
    assert narrow.used == 100


def test_an_account_below_itself_is_refused(world: World) -> None:
    """F26: itself, a child, the child of a child by another way; nothing changes."""
    top = world.tracker.new_account("top")
    middle = top.new_child("middle")
    bottom = middle.new_child("bottom")
    bottom.add_parent(top.new_child("aside"))
    before = world.books()

    for below in (top, middle, bottom):
        with pytest.raises(UsageError) as caught:
            top.add_parent(below)
        assert str(caught.value) == f"account 'top' is {below.name!r} or above it: no cycles"
        assert isinstance(caught.value, ValueError)

    assert world.books() == before


def test_parents_that_cannot_be_are_refused(world: World) -> None:
    """F27: one it has, a closed one, another tracker's, no account at all; nothing changes."""
    parent, closed = world.tracker.new_account("parent"), world.tracker.new_account("closed")
    closed.close()
    child = parent.new_child("child")
    stranger = Tracker(1000).new_account("stranger")
    before = world.books()

    with raises(UsageError, "account 'parent' is a parent of 'child' already"):
        child.add_parent(parent)
    with raises(AccountClosed, "account 'closed' is closed: closed by hand"):
        child.add_parent(closed)
    with pytest.raises(AccountClosed):
        closed.add_parent(parent)
    with raises(UsageError, "account 'stranger' belongs to another tracker than 'child'"):
        child.add_parent(stranger)
    with raises(UsageError, "a parent must be an account, not None") as caught:
        child.add_parent(None)  # type: ignore[arg-type]
    assert isinstance(caught.value, TypeError)

    assert world.books() == before


# --- closing ----------------------------------------------------------------------------------------------------------


def test_closing_takes_along_all_that_is_below(world: World) -> None:
    """Also what has another parent that stays; each reason says which account was closed."""
    left, right = world.tracker.new_account("left"), world.tracker.new_account("right")
    both = left.new_child("both")
    both.add_parent(right)
    leaf = both.new_child("leaf")
    for account, size in ((left, 1), (right, 10), (both, 100), (leaf, 200)):
        account.claim(size)
    world.clock.advance(2)

    left.close()

    assert left.close_reason == CloseReason(CloseKind.CLOSED, "left", "closed by hand", 102.0)
    along = CloseReason(CloseKind.CLOSED, "left", "closed with 'left': closed by hand", 102.0)
    assert both.close_reason == leaf.close_reason == along
    assert right.close_reason is None
    assert (right.used, world.tracker.used, leaf.used) == (10, 10, 0)
    assert [(event.account, event.written_off) for event in world.told(AccountClosing)] == [
        ("left", 1),
        ("both", 100),
        ("leaf", 200),
    ]
    with raises(AccountClosed, "account 'leaf' is closed: closed with 'left': closed by hand"):
        leaf.claim(1)
    assert_books_balance(world.tracker, 10)


def test_closing_a_child_leaves_its_parents_open(world: World) -> None:
    left, right = world.tracker.new_account("left"), world.tracker.new_account("right")
    child = left.new_child("child")
    child.add_parent(right)
    child.claim(5)

    child.close()

    assert not left.closed
    assert not right.closed
    assert (left.used, right.used) == (0, 0)
    left.close()
    assert child.close_reason is not None
    assert child.close_reason.text == "closed by hand"


def test_closing_the_tracker_closes_everything_and_shows_it_empty(world: World) -> None:
    """F7: once; every number is 0 afterwards, also in the statistics."""
    holder = world.holder("a", 700)
    holder.account.new_child("b").claim(10)
    callbacks: list[CloseReason] = []
    holder.account.on_close(callbacks.append)

    world.tracker.close()
    world.tracker.close()

    assert world.tracker.closed
    assert world.tracker.used == world.tracker.statistics().used == holder.account.used == 0
    assert world.tracker.snapshot().accounts == ()
    assert callbacks == [
        CloseReason(CloseKind.TRACKER_CLOSED, "tracker", "closed with 'tracker': tracker 'tracker' was closed", 101.0)
    ]
    assert repr(world.tracker) == "<Tracker 'tracker', 0 of 1000 bytes, closed>"
    of_tracker: list[Callable[[], object]] = [world.tracker.reclaim, lambda: world.tracker.reconfigure(limit=5)]
    for call in of_tracker:
        with raises(TrackerClosed, "tracker 'tracker' is closed"):
            call()
    of_account: list[Callable[[], object]] = [
        lambda: holder.participation.claim(0),
        lambda: holder.account.claim(1),
        holder.account.new_child,
        lambda: world.tracker.reclaim(dry_run=True),
        lambda: holder.account.reconfigure(priority=1),
        lambda: holder.account.register_participant(holder),
    ]
    for call in of_account:
        with pytest.raises(TrackerClosed):
            call()
    holder.participation.release(5)
    holder.participation.close()
    assert_books_balance(world.tracker, 0)


def test_closing_the_tracker_in_the_middle_of_a_round_ends_it(world: World) -> None:
    """F15: P4: the claim that started the round says so."""

    def close_all(_: object, __: object) -> Reclaimed:
        world.tracker.close()
        return Reclaimed.PARTIAL

    world.holder("a", 600, answer=close_all)
    late = world.tracker.new_account("late")

    with raises(TrackerClosed, "account 'late': closed with 'tracker': tracker 'tracker' was closed"):
        late.claim(600)

    assert world.tracker.used == 0


# --- in the middle of a round -----------------------------------------------------------------------------------------


def test_a_child_closed_while_its_parent_is_reclaimed_is_released_once(world: World) -> None:
    """F28: by whoever is asked."""
    parent = world.tracker.new_account("parent")
    child = parent.new_child("child")

    def close_child(one: ScriptedParticipant, _: object) -> Reclaimed:
        child.close()
        return Reclaimed.COLLAPSING

    world.holder("parent", 50, account=parent, answer=close_child)
    child.claim(100)
    other = world.holder("other", 30)

    world.tracker.reclaim(30)

    assert parent.closed
    assert child.close_reason is not None
    assert child.close_reason.text == "closed by hand"
    assert world.tracker.used == other.held == 30
    assert_books_balance(world.tracker, 30)


@pytest.mark.parametrize("answer", [Reclaimed.COLLAPSING, Reclaimed.PARTIAL])
def test_a_child_added_while_its_parent_is_reclaimed_lives_or_dies_with_it(world: World, answer: Reclaimed) -> None:
    """F28: never half."""
    children: list[Account] = []

    def adopt(one: ScriptedParticipant, _: object) -> Reclaimed:
        children.append(one.account.new_child("child"))
        children[-1].claim(70)
        elsewhere.add_parent(one.account)
        if answer is Reclaimed.PARTIAL:
            one.get()
        return answer

    parent = world.holder("parent", 300, 200, answer=adopt)
    elsewhere = world.tracker.new_account("elsewhere")
    elsewhere.claim(9)

    world.tracker.reclaim(300)

    alive = answer is Reclaimed.PARTIAL
    assert [parent.account.closed, children[0].closed, elsewhere.closed] == [not alive] * 3
    assert world.tracker.used == (279 if alive else 0)
    assert_books_balance(world.tracker, 279 if alive else 0)


def test_a_victim_that_closes_itself_is_gone_and_the_round_goes_on(world: World) -> None:
    """F15: by hand, in the middle of its own round."""

    def close_itself(one: ScriptedParticipant, _: object) -> Reclaimed:
        one.account.close()
        return Reclaimed.PARTIAL

    first = world.holder("first", 100, answer=close_itself)
    second = world.holder("second", 100)

    world.tracker.reclaim(0)

    assert first.account.close_reason is not None
    assert first.account.close_reason.kind is CloseKind.CLOSED
    assert second.account.close_reason is not None
    assert second.account.close_reason.kind is CloseKind.RECLAIMED
    assert world.tracker.used == 0
