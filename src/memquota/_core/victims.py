"""Candidates in the order in which they are asked: the index that persists between rounds, and the policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from attrs import frozen
from sortedcontainers import SortedList

if TYPE_CHECKING:
    from .holdings import Holding

__all__ = ["POLICIES", "Candidate", "CandidateIndex", "Entry", "Policy", "byte_seconds", "largest", "oldest_data"]

#: (priority, time, sequence number, holding). The time is a lower bound of the time of the holding's oldest data;
#: sequence numbers differ, so that holdings are never compared and no time is compared with NaN.
Entry: TypeAlias = "tuple[int, float, int, Holding]"


class CandidateIndex:
    """The candidates of one scope by priority, then by lower bound of their oldest data.

    It persists between rounds: under attack a round costs about its victims, not all participants, because each
    question moves a key forward and most are asked never. A sorted list rather than a heap, so that who leaves leaves
    nothing behind, and no operation touches more than a few thousand entries.
    """

    __slots__ = ("_entries", "add", "discard")

    def __init__(self) -> None:
        self._entries: Any = SortedList()
        #: Put a candidate in its place. O(log n).
        self.add: Callable[[Entry], None] = self._entries.add
        #: Take a candidate out, if it is there. O(log n).
        self.discard: Callable[[Entry], None] = self._entries.discard

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: object) -> bool:
        return entry in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def after(self, entry: Entry | None, count: int = 1) -> list[Entry]:
        """The next candidates behind an entry, or the first ones."""
        return list(islice(self.behind(entry), count))

    def behind(self, entry: Entry | None) -> Iterator[Entry]:
        """The candidates behind an entry, or all, one after another; none may come or go meanwhile."""
        entries = self._entries
        found: Iterator[Entry] = iter(entries) if entry is None else entries.irange(entry, inclusive=(False, True))
        return found

    def drop(self, entry: Entry) -> None:
        """Take a candidate out, if it is there. O(1) for the first one, as who has to go mostly is; else O(log n)."""
        entries = self._entries
        if len(entries) and entries[0] is entry:
            entries.pop(0)
        else:
            entries.discard(entry)


@frozen
class Candidate:
    """What a policy may judge a participation by.

    Attributes:
        account: The name of its account.
        oldest: When its oldest data came in, in seconds of the tracker's clock; -inf for "very old".
        age: How long ago that was, in seconds.
        bytes: What it holds.
        byte_seconds: The sum of bytes x age over what it holds, where it keeps that; else bytes x age.
        priority: Of its account. Already part of the order; larger is asked later.
    """

    account: str
    oldest: float
    age: float
    bytes: int
    byte_seconds: float
    priority: int


class Comparable(Protocol):
    """Anything that can be ordered."""

    def __lt__(self, other: Any, /) -> bool: ...


#: A policy gives a candidate its key; the largest key is asked first, within equal priority.
Policy: TypeAlias = Callable[[Candidate], Comparable]


def oldest_data(candidate: Candidate) -> float:
    """Oldest data first: who never reads, or holds back, makes his own data the oldest.

    Protects an honest participant whose oldest data is T seconds old against a flood of R bytes/s as long as
    `low_water >= R * T`. Rounds cost about their victims. Source: Tor proposal 281 and C Tor's circuit killer
    (`circuits_handle_oom`), which order by the age of the oldest queued cell.
    """
    return candidate.age


def largest(candidate: Candidate) -> int:
    """Most bytes first. Each round asks every participant for its age."""
    return candidate.bytes


def byte_seconds(candidate: Candidate) -> float:
    """Largest integral of bytes over their age first: a flood of fresh data and a hoard of old data both count.

    Each round asks every participant.
    """
    return candidate.byte_seconds


POLICIES: dict[str, Policy] = {policy.__name__: policy for policy in (oldest_data, largest, byte_seconds)}
