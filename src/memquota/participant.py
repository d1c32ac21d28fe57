"""The callback contract: what a data structure promises that holds memory on a tracker's books."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import Enum
from typing import Protocol, runtime_checkable

from attrs import frozen

__all__ = ["Participant", "ReclaimRequest", "Reclaimed"]


class Reclaimed(Enum):
    """What a participant did when it was asked for memory."""

    COLLAPSING = "collapsing"
    """It gives up everything. Its account closes, its bytes are forgotten at once, later claims fail."""

    PARTIAL = "partial"
    """It gave back some of it, and lives on."""


@frozen
class ReclaimRequest:
    """What is asked of a participant.

    Attributes:
        why: The reason, in words.
        bytes_wanted: How much it should give back; at most what it holds.
        newest_to_discard: Data that came in later than this may stay: then somebody else's is older. In seconds of the
            tracker's clock; infinity when there is nobody else.
        deadline: When the answer is due, in seconds of `time.monotonic`, whatever the tracker's clock.
    """

    why: str
    bytes_wanted: int
    newest_to_discard: float
    deadline: float


@runtime_checkable
class Participant(Protocol):
    """An object that holds memory, can say how old its oldest data is, and can give memory back.

    The tracker holds it weakly, so it must support weak references; when it dies, its participation ends. It needs
    neither hash nor equality. An object may also have

    - `byte_seconds(now) -> float`: the sum of bytes x age over what it holds, for the policy of that name; without it,
      bytes x age of the oldest is used;
    - `reentrant = True`: its methods may be called by the thread that is just claiming for it, with whatever locks of
      its own that thread holds. Without it, a round that is run by its own claim does not call it: the age it named
      last stands in, and when its account is the victim, the claim raises MemoryReclaimed and `reclaim` is called
      afterwards from a thread that can wait for those locks. Start anew with another object then: one that registered
      again would take that call for its new account.

    Callbacks:
        No lock of the tracker is held; both methods may use the tracker, but `claim` for the same participation inside
        `reclaim` may be written off at once. They are called in the thread (or task) that runs the round: with the
        inline reclaimer that is whichever thread claimed, so they need locks of their own against their owner. Both
        have to be quick: beyond `reclaim_timeout` the participant counts as hung. What raises, hangs or answers
        nonsense in `oldest_data` ends that participation; in `reclaim` it closes the account. KeyboardInterrupt and
        the like pass through to whoever runs the round.
    """

    def oldest_data(self) -> float | None:
        """When its oldest data came in, in seconds of the tracker's clock; None when it holds none.

        Data that comes in later must not be older than what was named here; who takes over older data calls
        `Participation.resurvey`.
        """
        ...

    def reclaim(self, request: ReclaimRequest) -> Reclaimed | Awaitable[Reclaimed]:
        """Give memory back: release what is freed, then say whether anything is left.

        Who answers PARTIAL and gave back less than 1/64 of what was wanted, though it has data left that is not newer
        than `newest_to_discard`, twice in a row, collapses.

        May be a coroutine function when the tracker's reclaimer is "task".
        """
        ...
