"""What stands in the books of one tracker: its accounts, what is held in them, and who of that is a candidate."""

from __future__ import annotations

from collections import deque

from .graph import AccountNode, Scope
from .holdings import Holding

__all__ = ["Listing"]

#: Entries of ended holdings that are swept from the indexes in one go, about 1 ms.
_SWEEP = 256


class Listing:
    """The part of a `Ledger` that moves no bytes.

    Args:
        root: The account that stands for the tracker itself.
    """

    def __init__(self, root: AccountNode) -> None:
        self.root = root
        self.accounts: dict[AccountNode, None] = {root: None}
        # Grows when something happens that may give a round that found nobody a new candidate.
        self.version = 0
        # The sequence number of the newest candidate, and of the newest survey of all ages.
        self.sequence = 0
        self.surveys = 0
        # Holdings that ended with their account and still have an entry (invariant B6).
        self.debris: deque[Holding] = deque()

    @property
    def root_scope(self) -> Scope:
        """The scope that everybody is in: the tracker's limits are its limits."""
        scope = self.root.scope
        assert scope is not None
        return scope

    def register(self, holding: Holding) -> None:
        """Take a new holding into its (open) account."""
        node = holding.node
        if node.holdings is None:
            node.holdings = {}
        node.holdings[holding] = None

    def enlist(self, holding: Holding, time: float) -> None:
        """Put a holding among the candidates of all its scopes."""
        self.sequence += 1
        if holding.node.used > holding.node.minimum:
            self.version += 1  # who cannot be chosen yet gives no round a chance: each would look at all for nothing
        holding.entry = (holding.node.priority, time, self.sequence, holding)
        for above in holding.node.scoped():
            assert above.scope is not None
            above.scope.index.add(holding.entry)

    def unlist(self, holding: Holding) -> None:
        """Take a holding out of the candidates."""
        entry = holding.entry
        if entry is not None:
            holding.entry = None
            for above in holding.node.scoped():
                assert above.scope is not None
                above.scope.index.drop(entry)

    def rekey(self, holding: Holding, time: float) -> None:
        """Move a candidate to where a better bound of the time of its oldest data puts it."""
        old = holding.entry
        node = holding.node
        if old is None or (old[1] == time and old[0] == node.priority):
            return
        holding.entry = entry = (node.priority, time, old[2], holding)
        for above in node.scoped():
            assert above.scope is not None
            above.scope.index.discard(old)
            above.scope.index.add(entry)

    def resurvey(self, holding: Holding) -> None:
        """Its data may be older than it said: it is asked first, also by a round that asked it already."""
        if holding.live:
            holding.surveyed_in = 0
            self.version += 1
            self.rekey(holding, float("-inf"))

    def sweep(self) -> None:
        """Remove a few entries that closed accounts left behind."""
        for _ in range(min(_SWEEP, len(self.debris))):
            self.unlist(self.debris.popleft())
