"""The moves of whole accounts in the books: opening, linking, configuring, closing."""

from __future__ import annotations

from memquota.errors import UsageValueError

from .events import AccountClosing, CloseReason, LimitsChanged
from .graph import AccountNode, Scope, subtree
from .holdings import Holding
from .ledger import Ledger
from .limits import Limits

__all__ = ["add_parent", "close_account", "open_account", "reconfigure"]


def open_account(
    ledger: Ledger,
    name: str,
    parent: AccountNode,
    *,
    limits: Limits | None = None,
    minimum: int = 0,
    priority: int = 0,
    opened_at: str = "",
) -> AccountNode:
    """Open an account below an open one. O(1)."""
    node = AccountNode(name, (parent,), limits=limits, minimum=minimum, priority=priority, opened_at=opened_at)
    # Commit.
    ledger.accounts[node] = None
    _link(node, parent)
    return node


def _link(node: AccountNode, parent: AccountNode) -> None:
    if parent.children is None:
        parent.children = {}
    parent.children[node] = None


def add_parent(ledger: Ledger, node: AccountNode, parent: AccountNode) -> None:
    """Put an account below another one too: its usage counts there from now on.

    O(accounts below and above), and their product where accounts below have several parents.

    Raises:
        UsageError: It would be above itself, or is below that parent already.
        QuotaExceeded: A hard limit above the new parent has no room for it.
    """
    if parent in node.parents:
        raise UsageValueError(f"account {parent.name!r} is a parent of {node.name!r} already")
    if node in parent.lineage():
        raise UsageValueError(f"account {node.name!r} is {parent.name!r} or above it: no cycles")
    members = subtree(node)
    moved = _moved_by(members, parent)
    coming: dict[AccountNode, int] = {}
    for holdings, gaining in moved:
        size = sum(holding.booked for holding in holdings)
        for above in gaining:
            coming[above] = coming.get(above, 0) + size
    for above, size in coming.items():
        if size and above.scope is not None and above.scope.limits.refuses(above.used + size):
            raise ledger.refusal(node, size, above)
    # Commit.
    if node.parents == (ledger.root,):  # below everything anyway, through the new parent
        node.parents = (parent,)
        assert ledger.root.children is not None
        ledger.root.children.pop(node, None)
    else:
        node.parents = (*node.parents, parent)
    _link(node, parent)
    for member in members:
        member.forget_lineage()
    for holdings, gaining in moved:
        for above in gaining:
            above.used += sum(holding.booked for holding in holdings)
            if above.scope is not None:
                _take_in(above.scope, holdings)
                if above.scope.limits.over(above.used):
                    above.scope.passed = True
                    ledger.strained[above] = None
    ledger.version += 1


def _moved_by(members: list[AccountNode], parent: AccountNode) -> list[tuple[list[Holding], list[AccountNode]]]:
    """Which holdings of a subtree count in which accounts for the first time when it comes below `parent` too."""
    old = set(members[0].lineage())
    gaining = [above for above in parent.lineage() if above not in old]
    if all(len(member.parents) == 1 for member in members[1:]):  # one way up: all moves together
        return [([held for member in members for held in member.live_holdings()], gaining)]
    moved = []
    for member in members:
        held = list(member.live_holdings())
        if held:
            already = set(member.lineage())
            moved.append((held, [above for above in gaining if above not in already]))
    return moved


def _take_in(scope: Scope, holdings: list[Holding]) -> None:
    for holding in holdings:
        scope.credit_out += holding.cap
        if holding.entry is not None:
            scope.index.add(holding.entry)


def reconfigure(ledger: Ledger, node: AccountNode, limits: Limits | None, minimum: int, priority: int) -> None:
    """Replace what was configured for an account, or for the tracker when it is the root.

    O(1), or O(subtree) when limits appear or go.
    """
    members = subtree(node) if (limits is None) != (node.scope is None) else []
    reordered = list(node.live_holdings()) if priority != node.priority else []
    # Commit.
    node.minimum = minimum
    node.priority = priority
    for holding in reordered:
        if holding.entry is not None:
            ledger.rekey(holding, holding.entry[1])
    if limits is None:
        node.scope = None
    elif node.scope is not None:
        node.scope.limits = limits
    else:
        node.scope = Scope(limits)
        for member in members:
            _take_in(node.scope, list(member.live_holdings()))
    for member in members:
        member.forget_lineage()
    if node.scope is not None:
        node.scope.judge(node.used)
        if node.scope.limits.over(node.used):
            ledger.strained[node] = None
    ledger.version += 1
    ledger.events.append(
        LimitsChanged(
            node.name,
            limits.limit if limits else None,
            limits.low_water if limits else None,
            limits.hard_limit if limits else None,
        )
    )


def close_account(ledger: Ledger, node: AccountNode, reason: CloseReason, *, told: bool = True) -> int:
    """Close an account with all its descendants and forget what they hold. Linear; returns the bytes written off.

    Events say so, unless nobody wants to be told.
    """
    if node.ended is not None:
        return 0
    members = subtree(node)
    freed = node.used
    below = members[1:]
    along = reason.along() if below else reason
    if freed:
        _take_out(members)
    # Commit.
    node.ended = reason  # the topmost first: `rebuild` ends what is below it, should this be torn
    for member in below:
        member.ended = along
    for member in members:
        member.used = 0
        if member.scope is not None:
            member.scope.credit_out = 0
        written_off = 0
        for holding in member.live_holdings():
            written_off += holding.booked
            if holding.entry is not None:
                ledger.debris.append(holding)
        if told:
            ledger.events.append(AccountClosing(member.name, reason if member is node else along, written_off))
        ledger.ended.append(member)
        ledger.strained.pop(member, None)
        for parent in member.parents:
            assert parent.children is not None
            parent.children.pop(member, None)
        ledger.accounts.pop(member, None)  # last: `rebuild` announces again what is still there
    return freed


def _take_out(members: list[AccountNode]) -> None:
    """Take what the members hold out of the sums of every account above them that is not one of them."""
    inside = set(members)
    if all(map(inside.issuperset, [member.parents for member in members[1:]])):
        groups = [members]  # one way out, through the first: all goes together
    else:
        groups = [[member] for member in members]
    for group in groups:
        size = credit = 0
        for member in group:
            for holding in member.live_holdings():
                size += holding.booked
                credit += holding.cap
        for above in group[0].lineage() if size else ():  # no credit without bytes (invariant B2)
            if above not in inside:
                above.used -= size
                if above.scope is not None:
                    above.scope.credit_out -= credit
                    above.scope.fell(above.used)
