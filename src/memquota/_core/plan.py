"""Who would go if a round ran now: the answer of a dry run."""

from __future__ import annotations

from attrs import frozen

from .graph import AccountNode, subtree
from .holdings import Holding
from .ledger import Ledger
from .victims import Candidate

__all__ = ["PlannedVictim", "ReclaimPlan", "plan"]


@frozen
class PlannedVictim:
    """An account that would be asked.

    Attributes:
        account: Its name.
        bytes: What it holds with its descendants, less what went with victims before it.
        age: Age of its oldest data in seconds; infinite where it names none that can be believed.
        score: The policy's key.
        why: The reason, in words.
    """

    account: str
    bytes: int
    age: float
    score: object
    why: str


@frozen
class ReclaimPlan:
    """Who would go, in order, if a round about the tracker ran now and each victim gave up everything.

    Limits of accounts have rounds of their own. Whose answer is nonsense stands in front at once; a round finds that
    out of those that it asks only.

    Attributes:
        used: The present usage in bytes.
        target: The usage at which the round would stop.
        victims: Who would be asked, in order.
        left: The usage afterwards; above `target` when there is nobody left to ask.
    """

    used: int
    target: int
    victims: tuple[PlannedVictim, ...]
    left: int


def plan(ledger: Ledger, target: int, ordered: list[tuple[Holding, Candidate, object]], policy: str) -> ReclaimPlan:
    """Take candidates in order until usage would be at or below the target. Changes nothing."""
    used = left = ledger.root.used
    gone: set[AccountNode] = set()
    victims: list[PlannedVictim] = []
    for holding, candidate, score in ordered:
        node = holding.node
        if left <= target:
            break
        if node in gone or not holding.live:
            continue
        members = [member for member in subtree(node) if member not in gone]
        size = sum(held.booked for member in members for held in member.live_holdings())
        if size <= node.minimum:
            continue
        gone.update(members)
        left -= size
        why = f"first by {policy}: {score}; its oldest data is {candidate.age:.3f} s old"
        victims.append(PlannedVictim(node.name, size, candidate.age, score, why))
    return ReclaimPlan(used, target, tuple(victims), left)
