"""The moves of accounts where only one of several ways through them, or a later look, tells right from wrong."""

from __future__ import annotations

from memquota._core.accounts import add_parent, close_account, reconfigure
from memquota._core.checks import check_books
from memquota._core.events import CloseKind, CloseReason, LimitsChanged
from memquota._core.limits import Limits
from tests.core.support import account, events_of, ledger_of, member

MIB = 1024 * 1024
WHY = CloseReason(CloseKind.CLOSED, "account", "closed by hand", 5.0)


def test_the_only_account_inside_may_be_below_the_new_parent_already() -> None:
    """P1: it counts there once, also when nothing else is below."""
    ledger = ledger_of()
    parent, moved = account(ledger, "parent"), account(ledger, "moved")
    both = member(ledger, "both", 20, parent=moved)
    add_parent(ledger, both.holding.node, parent)

    add_parent(ledger, moved, parent)

    assert (parent.used, moved.used, ledger.root.used) == (20, 20, 20)
    check_books(ledger)


def test_a_new_priority_leaves_the_age_as_it_was() -> None:
    ledger = ledger_of()
    who = member(ledger, "who", 10, age=7.5)

    reconfigure(ledger, who.holding.node, None, 0, 3)

    assert who.holding.entry == (3, 7.5, 1, who.holding)


def test_changes_of_limits_are_told_in_their_order() -> None:
    ledger = ledger_of()
    for limit in (100, 200):
        reconfigure(ledger, ledger.root, Limits(limit), 0, 0)

    assert [event.limit for event in events_of(ledger, LimitsChanged)] == [100, 200]


def test_a_closed_tracker_has_no_credit_out() -> None:
    """Its statistics can still be read, and say that nothing is left."""
    ledger = ledger_of(32 * MIB)
    who = member(ledger, "who", 5000)
    assert ledger.root_scope.credit_out == who.holding.cap > 0

    close_account(ledger, ledger.root, WHY)

    assert (ledger.root.used, ledger.root_scope.credit_out) == (0, 0)


def test_closing_a_tree_looks_for_what_is_above_its_topmost_account_only() -> None:
    """F29: linear, however deep it is: what lies above each account below would have to be found first."""
    ledger = ledger_of(32 * MIB)
    below = [account(ledger, "top")]
    for _ in range(50):
        below.append(member(ledger, "deep", 10, parent=below[-1]).holding.node)
    for node in below:
        node.forget_lineage()

    close_account(ledger, below[0], WHY)

    assert below[0]._lineage == (below[0], ledger.root)
    assert [node for node in below[1:] if node._lineage is not None] == []
    assert ledger.root.used == 0
