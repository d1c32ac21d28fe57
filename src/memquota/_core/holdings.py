"""What one participation holds, what an account holds itself, and the credit of a handle."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .graph import AccountNode
    from .victims import Entry

__all__ = ["NO_CREDIT", "CreditLine", "Holding", "OwnHolding", "PinnedHolding", "Receipt"]

#: The credit of a handle that has none: every call takes the slow path, also one of 0 bytes.
NO_CREDIT: Final = -1


class CreditLine:
    """The two numbers that the fast path of a handle lives on; base of the handles.

    `_credit` bytes are booked and not in use. The owner of the handle changes it without a lock, between 0 and `_cap`.
    """

    __slots__ = ("_cap", "_closed", "_credit")

    def __init__(self) -> None:
        self._credit = NO_CREDIT
        self._cap = NO_CREDIT - 1
        # Whether it is not, or no longer, one of the holding's `handles`: who counts it sets this to False.
        self._closed = True

    def cut(self) -> None:
        """Let every call of the handle come to the books."""
        self._credit = NO_CREDIT
        self._cap = NO_CREDIT - 1


class Receipt:
    """Says whether a claim is in the books, also when an exception from outside interrupted it afterwards."""

    __slots__ = ("booked",)

    def __init__(self) -> None:
        self.booked = False


class Holding:
    """What one participation holds: its line in the books. Compared by identity."""

    __slots__ = (
        "booked",
        "cap",
        "claims",
        "ended",
        "entry",
        "handles",
        "label",
        "node",
        "silent_since",
        "surveyed_in",
    )

    #: Whether it counts and is never a candidate, nor asked.
    pinned = False

    def __init__(self, node: AccountNode, label: str = "?") -> None:
        self.node = node
        # What its participant is called where people read it.
        self.label = label
        # Invariant B2: 0 <= cap <= booked. `booked` includes the credit that is out, at most `cap`.
        self.booked = 0
        self.cap = 0
        self.handles = 1
        # Why the participation ended by itself; what ended with its account has `node.ended` only.
        self.ended: str | None = None
        # Its place among the candidates. It may stay there when nothing is booked any more.
        self.entry: Entry | None = None
        # The round that asked for its age last, and what `claims` was when it had bytes and named no age.
        self.surveyed_in = 0
        self.silent_since = -1
        # Claims that came to the books: tells whether anything moved between two rounds.
        self.claims = 0

    def in_use(self) -> int:
        """What is claimed and not out as credit, as far as can be known."""
        return self.booked

    @property
    def live(self) -> bool:
        """Whether it still counts."""
        return self.ended is None and self.node.ended is None


class PinnedHolding(Holding):
    """What running work holds: it counts, is never asked for memory, and has no credit."""

    __slots__ = ()
    pinned = True


class OwnHolding(Holding):
    """What an account claimed itself, without a participant. As old as its earliest claim not given back."""

    __slots__ = ("claimed", "moments")

    def __init__(self, node: AccountNode) -> None:
        super().__init__(node)
        # Invariant B8: claims not given back, as [time, bytes], oldest first; their bytes add up to `booked`.
        self.claimed: deque[list[Any]] = deque()
        # The sum of time x bytes over them: byte_seconds in constant time.
        self.moments = 0.0

    def oldest(self) -> float | None:
        """When the earliest claim that was not given back was made."""
        return self.claimed[0][0] if self.claimed else None

    def byte_seconds(self, now: float) -> float:
        """The sum of bytes x age over what is claimed."""
        return max(0.0, now * self.booked - self.moments)

    def came(self, size: int, now: float, receipt: Receipt | None = None) -> None:
        """Note a claim."""
        if not self.claimed or self.claimed[-1][0] != now:
            self.claimed.append([now, 0])
        newest = self.claimed[-1]
        total = newest[1] + size
        moments = self.moments + now * size
        # Commit.
        newest[1] = total
        self.moments = moments
        if receipt is not None:
            receipt.booked = True

    def went(self, size: int) -> None:
        """Note a release: the oldest goes first."""
        while size:
            first = self.claimed[0]
            taken = min(size, first[1])
            first[1] -= taken
            size -= taken
            self.moments -= first[0] * taken
            if not first[1]:
                self.claimed.popleft()
        if not self.claimed:
            self.moments = 0.0  # forgets what rounding left

    def undone(self, size: int, time: float) -> None:
        """Note that the claim of that time failed. What was given back of it goes from those after it: it was first."""
        for place in reversed(range(len(self.claimed))):  # it is among the last
            came = self.claimed[place]
            if came[0] == time:
                taken = min(size, came[1])
                came[1] -= taken
                size -= taken
                self.moments -= time * taken
                if not came[1]:
                    del self.claimed[place]
                break
        self.went(size)

    def recount(self) -> None:
        """Derive the sums from the claims."""
        self.claimed = deque(came for came in self.claimed if came[1])  # all given back, and not taken out any more
        self.booked = sum(size for _, size in self.claimed)
        self.moments = sum(time * size for time, size in self.claimed)
