"""Accounts as nodes of a graph without cycles: parents, children, who is above and below whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .events import CloseReason
from .limits import Limits
from .victims import CandidateIndex

if TYPE_CHECKING:
    from .holdings import Holding, OwnHolding

__all__ = ["AccountNode", "Scope", "subtree"]


class Scope:
    """What an account with limits of its own has besides: the place where a round can be about it alone."""

    __slots__ = ("credit_out", "gave_up", "index", "largest", "limits", "passed", "refusals")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # Invariant B5: the sum of `cap` over the live holdings of the subtree.
        self.credit_out = 0
        # Invariant B6: an entry for each live holding of the subtree that has one, and for what was not yet swept.
        self.index = CandidateIndex()
        # Where a round found nobody left to ask: the least usage since then, and the version of the ledger then. None
        # when none did.
        self.gave_up: tuple[int, int] | None = None
        # At how many more refusals of the hard limit nobody looks again who holds most, and who was found last.
        self.refusals = 0
        self.largest: list[AccountNode]

        # Invariant B10: whether usage was above the limit and has not been at or below the low water since.
        self.passed = False

    def fell(self, used: int) -> None:
        """Usage went down to this: what it grows by counts from there."""
        if self.passed and self.limits.relaxed(used):
            self.passed = False
        if self.gave_up is not None:
            least, version = self.gave_up
            self.gave_up = min(least, used), version

    def judge(self, used: int) -> None:
        """Usage is this after the limits or all sums were set anew."""
        self.passed = self.limits.over(used) or (self.passed and not self.limits.relaxed(used))


class AccountNode:
    """One account in the books. Compared by identity."""

    __slots__ = (
        "_lineage",
        "_scoped",
        "asked",
        "children",
        "ended",
        "holdings",
        "minimum",
        "name",
        "opened_at",
        "over_released",
        "own",
        "parents",
        "priority",
        "returned",
        "scope",
        "stalls",
        "too_little",
        "used",
    )

    def __init__(
        self,
        name: str,
        parents: tuple[AccountNode, ...],
        *,
        limits: Limits | None = None,
        minimum: int = 0,
        priority: int = 0,
        opened_at: str = "",
    ) -> None:
        self.name = name
        # File and line, for the warning when it is dropped with bytes claimed.
        self.opened_at = opened_at
        # Invariant B3: no account is above itself; all parents of an open account are open.
        self.parents = parents
        # Invariant B4: the exact inverse of `parents` over the open accounts; None while there was no child.
        self.children: dict[AccountNode, None] | None = None
        # Invariant B1: the sum of `booked` over the live holdings of the subtree, each once; never negative.
        self.used = 0
        # All that was ever given back below: tells whether somebody who was asked gives.
        self.returned = 0
        self.holdings: dict[Holding, None] | None = None
        self.own: OwnHolding | None = None
        self.scope = Scope(limits) if limits is not None else None
        self.minimum = minimum
        self.priority = priority
        self.ended: CloseReason | None = None
        # Invariant B7: where known, this account and all above it, each once; those of them that have a scope.
        self._lineage: tuple[AccountNode, ...] | None = None
        self._scoped: tuple[AccountNode, ...]
        # How many times in a row it gave back too little; and when it just did, what it was asked to discard up to:
        # having nothing older left is an excuse.
        self.stalls = 0
        self.too_little: float | None = None
        # Whether it is being asked right now.
        self.asked = False
        self.over_released = False

    def lineage(self) -> tuple[AccountNode, ...]:
        """This account and every ancestor, each once. Made at the first need, forgotten when the graph changes."""
        if self._lineage is None:
            found: dict[AccountNode, None] = {self: None}
            pending = [self]
            while pending:
                for parent in pending.pop().parents:
                    if parent not in found:
                        found[parent] = None
                        pending.append(parent)
            self._scoped = tuple(node for node in found if node.scope is not None)
            self._lineage = tuple(found)
        return self._lineage

    def scoped(self) -> tuple[AccountNode, ...]:
        """Those of the lineage that have a scope."""
        if self._lineage is None:
            self.lineage()
        return self._scoped

    def forget_lineage(self) -> None:
        """The graph or the scopes above have changed."""
        self._lineage = None

    def live_holdings(self) -> Iterator[Holding]:
        """What is held in this account itself and is not over."""
        for holding in self.holdings or ():
            if holding.ended is None:
                yield holding


def subtree(node: AccountNode) -> list[AccountNode]:
    """The account, first, and every descendant, each once."""
    if not node.children:  # as nearly all accounts
        return [node]
    found: dict[AccountNode, None] = {node: None}
    pending = [node]
    while pending:
        for child in pending.pop().children or ():
            if child not in found:
                found[child] = None
                pending.append(child)
    return list(found)
