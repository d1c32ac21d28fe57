"""Accounts as a graph."""

from memquota._core.accounts import add_parent
from memquota._core.events import CloseKind, CloseReason
from memquota._core.graph import AccountNode, Scope, subtree
from memquota._core.holdings import Holding
from memquota._core.limits import Limits
from tests.core.support import account, ledger_of


def test_a_new_account_holds_nothing() -> None:
    node = AccountNode("account", ())

    assert (node.used, node.returned, node.minimum, node.priority, node.stalls) == (0, 0, 0, 0, 0)
    assert (node.children, node.holdings, node.own, node.scope, node.ended, node.too_little) == (None,) * 6
    assert (node.asked, node.over_released) == (False, False)
    assert list(node.live_holdings()) == []
    assert node.scoped() == ()
    assert node.lineage() == (node,)


def test_an_account_with_limits_has_a_scope() -> None:
    limits = Limits(1000)
    node = AccountNode("account", (), limits=limits, minimum=5, priority=2)

    assert node.scope is not None
    assert node.scope.limits is limits
    assert (node.scope.credit_out, len(node.scope.index), node.scope.gave_up) == (0, 0, None)
    assert (node.minimum, node.priority) == (5, 2)
    assert node.scoped() == (node,)


def test_a_lineage_has_every_account_above_once() -> None:
    """P1: a diamond counts once."""
    ledger = ledger_of()
    top = account(ledger, "top")
    left = account(ledger, "left", top)
    right = account(ledger, "right", top)
    bottom = account(ledger, "bottom", left)
    add_parent(ledger, bottom, right)

    lineage = bottom.lineage()

    assert lineage[0] is bottom
    assert len(lineage) == 5
    assert set(lineage) == {bottom, left, right, top, ledger.root}
    assert bottom.lineage() is lineage  # made once


def test_a_lineage_is_made_anew_after_it_was_forgotten() -> None:
    ledger = ledger_of()
    node = account(ledger)
    assert node.scoped() == (ledger.root,)
    node.scope = Scope(Limits(10))

    assert node.scoped() == (ledger.root,)  # remembered
    node.forget_lineage()
    assert node.scoped() == (node, ledger.root)


def test_a_subtree_has_the_account_first_and_everybody_below_once() -> None:
    ledger = ledger_of()
    top = account(ledger, "top")
    left = account(ledger, "left", top)
    right = account(ledger, "right", top)
    bottom = account(ledger, "bottom", left)
    add_parent(ledger, bottom, right)
    account(ledger, "elsewhere")

    members = subtree(top)

    assert members[0] is top
    assert sorted(member.name for member in members) == ["bottom", "left", "right", "top"]
    assert subtree(bottom) == [bottom]


def test_a_chain_of_ten_thousand_accounts_needs_no_recursion() -> None:
    """F29: neither up nor down."""
    ledger = ledger_of()
    node = first = account(ledger)
    for _ in range(9_999):
        node = account(ledger, "deeper", node)

    assert len(node.lineage()) == 10_001
    assert len(subtree(first)) == 10_000


def test_live_holdings_are_those_that_did_not_end_by_themselves() -> None:
    node = AccountNode("account", ())
    here, gone = Holding(node), Holding(node)
    node.holdings = {here: None, gone: None}
    gone.ended = "closed"

    assert list(node.live_holdings()) == [here]
    node.ended = CloseReason(CloseKind.CLOSED, "account", "closed by hand", 0.0)
    assert list(node.live_holdings()) == [here]
