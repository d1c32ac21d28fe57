"""What happened and why, as frozen values. `Tracker.subscribe` delivers them, the log is written from them."""

from __future__ import annotations

from enum import Enum

from attrs import frozen

__all__ = [
    "AccountClosing",
    "ClaimRefused",
    "CloseKind",
    "CloseReason",
    "Event",
    "GateClosed",
    "GateOpened",
    "LimitsChanged",
    "OverRelease",
    "ParticipationEnded",
    "ProviderFailed",
    "ProviderRecovered",
    "RoundEnded",
    "RoundOutcome",
    "RoundStarted",
    "VictimAsked",
    "VictimOutcome",
    "VictimSettled",
]


class CloseKind(Enum):
    """Why an account was closed."""

    CLOSED = "closed"
    """`Account.close` was called."""
    DROPPED = "dropped"
    """Nobody held the account any more."""
    RECLAIMED = "reclaimed"
    """It was a victim and gave up its memory."""
    FAILED = "failed"
    """It was a victim, and a participant of it raised, hung or answered nonsense."""
    STALLED = "stalled"
    """It was a victim, promised to give memory back and did not."""
    WRITTEN_OFF = "written off"
    """`Tracker.reconcile` was called, because what it had claimed had leaked."""
    TRACKER_CLOSED = "tracker closed"
    """The whole tracker was closed."""

    @property
    def under_pressure(self) -> bool:
        """Whether the memory was given up under pressure: later claims raise MemoryReclaimed."""
        return self in (CloseKind.RECLAIMED, CloseKind.FAILED, CloseKind.STALLED)


@frozen
class CloseReason:
    """Why and when an account was closed.

    Attributes:
        kind: The sort of reason.
        account: The account that was closed itself; another one's name where a descendant went with it.
        text: The reason in words.
        when: Seconds of the tracker's clock.
    """

    kind: CloseKind
    account: str
    text: str
    when: float

    def along(self) -> CloseReason:
        """The reason of what is below that account and goes with it."""
        return CloseReason(self.kind, self.account, f"closed with {self.account!r}: {self.text}", self.when)


class Event:
    """Base of all events."""

    __slots__ = ()


@frozen
class RoundStarted(Event):
    """A round began. `scope` is the name of the account whose limit is passed, or the tracker's."""

    number: int
    scope: str
    why: str
    used: int
    limit: int | None
    target: int
    when: float


@frozen
class VictimAsked(Event):
    """An account is about to be asked for memory.

    Attributes:
        number: The round.
        account: The victim.
        why: The policy's reason, in words.
        age: Age of its oldest data in seconds; None where that is not known.
        used: What it holds with its descendants, in bytes.
        score: The policy's key for it, or its priority and the time of its oldest data.
        bytes_wanted: What it is asked for, in bytes.
        participants: How many of its participants are asked.
        next_account: Who would be next, if anybody.
        next_age: The age of that one's oldest data.
        when: Seconds of the tracker's clock.
    """

    number: int
    account: str
    why: str
    age: float | None
    used: int
    score: object
    bytes_wanted: int
    participants: int
    next_account: str | None
    next_age: float | None
    when: float


class VictimOutcome(Enum):
    """How a victim answered."""

    COLLAPSED = "collapsed"
    PARTIAL = "partial"
    FAILED = "failed"
    STALLED = "stalled"
    GONE = "gone"
    """It closed by itself before it could answer."""


@frozen
class VictimSettled(Event):
    """A victim's answer is in the books."""

    number: int
    account: str
    outcome: VictimOutcome
    bytes_wanted: int
    freed: int
    detail: str
    when: float


class RoundOutcome(Enum):
    """How a round ended."""

    DONE = "at or below low water"
    NOBODY_LEFT = "nobody left to ask"
    CANCELLED = "cancelled"


@frozen
class RoundEnded(Event):
    """A round ended. `freed` is the sum over its victims; claims made meanwhile are not in it."""

    number: int
    scope: str
    outcome: RoundOutcome
    victims: int
    freed: int
    used: int
    target: int
    when: float


@frozen
class AccountClosing(Event):
    """An account was closed with what it still had claimed itself, which is written off."""

    account: str
    reason: CloseReason
    written_off: int


@frozen
class ParticipationEnded(Event):
    """A participation ended because its participant failed; what it had claimed is written off."""

    account: str
    participant: str
    why: str
    written_off: int


@frozen
class OverRelease(Event):
    """More was released than was claimed; the excess was not booked. `first` for the first of its account."""

    account: str
    excess: int
    first: bool


@frozen
class ClaimRefused(Event):
    """A hard limit refused a claim; nothing was claimed."""

    account: str
    asked: int
    used: int
    limit: int


@frozen
class LimitsChanged(Event):
    """The limits of an account, or of the tracker, were replaced."""

    account: str
    limit: int | None
    low_water: int | None
    hard_limit: int | None


@frozen
class GateClosed(Event):
    """A gate admits nobody for now, whatever room it has itself: because of the tracker, or of real memory."""

    gate: str
    why: str
    when: float


@frozen
class GateOpened(Event):
    """What closed a gate is over."""

    gate: str
    when: float


@frozen
class ProviderFailed(Event):
    """A gate's provider gave no reading; the last good one holds for a while. Told once until it recovers."""

    gate: str
    why: str
    when: float


@frozen
class ProviderRecovered(Event):
    """A gate's provider gives readings again."""

    gate: str
    when: float
