"""What must be true of the books, and how to make it true again after an exception from outside tore a move."""

from __future__ import annotations

from memquota.errors import TrackerBroken

from .graph import AccountNode, Scope, subtree
from .holdings import OwnHolding
from .ledger import Ledger

__all__ = ["check_books", "rebuild"]


def check_books(ledger: Ledger) -> None:
    """Check every invariant; the specification of the books. For tests: quadratic in the depth of the graph.

    Raises:
        TrackerBroken: One does not hold.
    """

    def hold(truth: bool, invariant: str, node: AccountNode) -> None:
        if not truth:
            raise TrackerBroken(f"invariant {invariant} does not hold at account {node.name!r}")

    accounts = ledger.accounts
    debris = set(ledger.debris)
    for node in accounts:
        below = subtree(node)
        held = [holding for member in below for holding in member.live_holdings()]
        hold(node.used == sum(holding.booked for holding in held) >= 0, "B1 (used is the sum below)", node)
        for holding in node.live_holdings():
            hold(0 <= holding.cap <= holding.booked, "B2 (credit is booked)", node)
            hold(holding.node is node and holding.live, "B2 (a holding is where it says)", node)
            listed = holding.entry is not None or holding.pinned
            hold(listed or not holding.booked, "B6 (who holds is a candidate, but for running work)", node)
            hold(holding.entry is None or holding.entry[0] == node.priority, "B6 (by its priority)", node)
        hold(node.ended is None, "B3 (an open account is open)", node)
        hold(all(parent in accounts for parent in node.parents), "B3 (parents are open)", node)
        hold(bool(node.parents) != (node is ledger.root), "B3 (all but the root have parents)", node)
        hold(all(node not in member.children for member in below if member.children), "B3 (no cycles)", node)
        hold(all(node in (parent.children or ()) for parent in node.parents), "B4 (parents know it)", node)
        hold(
            all(node in child.parents and child in accounts for child in node.children or ()),
            "B4 (children know it)",
            node,
        )
        if node.scope is not None:
            scope = node.scope
            hold(scope.credit_out == sum(holding.cap for holding in held), "B5 (credit that is out)", node)
            entries = set(scope.index)
            hold(len(entries) == len(scope.index), "B6 (each candidate once)", node)
            hold(
                entries >= {holding.entry for holding in held if holding.entry is not None},
                "B6 (every candidate is in the index)",
                node,
            )
            hold(
                all(entry[3].entry == entry and (entry[3].live or entry[3] in debris) for entry in entries),
                "B6 (every entry is a candidate)",
                node,
            )
            hold(node in ledger.strained or not scope.limits.over(node.used), "B9 (who is over is looked at)", node)
            hold(scope.passed or not scope.limits.over(node.used), "B10 (who is over has passed its limit)", node)
            hold(not (scope.passed and scope.limits.relaxed(node.used)), "B10 (until it is at low water)", node)
        known = node._lineage
        if known is not None:
            scoped = node._scoped
            node.forget_lineage()
            hold(set(known) == set(node.lineage()) and len(set(known)) == len(known), "B7 (lineage)", node)
            hold(set(scoped) == set(node.scoped()), "B7 (scopes of the lineage)", node)
        if node.own is not None:
            total = sum(size for _, size in node.own.claimed)
            hold(total == node.own.booked, "B8 (own claims add up)", node)


def rebuild(ledger: Ledger) -> None:
    """Derive everything that can be derived anew. O(holdings x depth)."""
    for node in ledger.accounts:
        node.forget_lineage()
    for node in list(ledger.accounts):
        _end_with_what_is_above(ledger, node)
    for node in ledger.accounts:
        node.used = 0
        node.children = None
        if node.scope is not None:
            passed, node.scope = node.scope.passed, Scope(node.scope.limits)
            node.scope.passed = passed
    ledger.debris.clear()
    for node in ledger.accounts:
        for parent in node.parents:
            if parent.children is None:
                parent.children = {}
            parent.children[node] = None
        _book_anew(ledger, node)
    for node in ledger.accounts:
        if node.scope is not None:
            node.scope.judge(node.used)
    ledger.version += 1


def _end_with_what_is_above(ledger: Ledger, node: AccountNode) -> None:
    """An account that ended, or that is below one that did, is over."""
    if node.ended is None:
        for above in node.lineage():
            if above.ended is not None:  # either the account that was closed, or one that went with one above it
                went_along = any(parent.ended is not None for parent in above.parents)
                node.ended = above.ended if went_along else above.ended.along()
                break
    if node.ended is not None:
        ledger.ended.append(node)
        ledger.strained.pop(node, None)
        del ledger.accounts[node]


def _book_anew(ledger: Ledger, node: AccountNode) -> None:
    for holding in list(node.holdings or ()):
        if holding.ended is not None or not holding.handles:
            holding.ended = holding.ended or "closed"
            assert node.holdings is not None
            del node.holdings[holding]
            continue
        if isinstance(holding, OwnHolding):
            node.own = holding
            holding.recount()
        if holding.entry is not None:
            holding.entry = (node.priority, *holding.entry[1:])
        for above in node.lineage():
            above.used += holding.booked
            if above.scope is not None:
                above.scope.credit_out += holding.cap
                if holding.entry is not None:
                    above.scope.index.add(holding.entry)
                if above.scope.limits.over(above.used):
                    ledger.strained[above] = None
        if holding.entry is None and holding.booked and not holding.pinned:
            ledger.enlist(holding, float("-inf"))
