"""What stands for a place in the books: handles, registrations of participants, and what is checked of both."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from inspect import CO_COROUTINE, iscoroutinefunction
from math import inf
from operator import index
from os.path import dirname, join
from sys import _getframe, intern
from types import CodeType
from typing import Any, Final

from memquota._core.events import CloseKind
from memquota._core.graph import AccountNode, subtree
from memquota._core.holdings import NO_CREDIT, CreditLine, Holding
from memquota._core.limits import LARGEST_SIZE
from memquota.errors import (
    AccountClosed,
    MemoryQuotaError,
    MemoryReclaimed,
    ParticipationClosed,
    TrackerClosed,
    UsageTypeError,
    UsageValueError,
)

__all__ = [
    "Handle",
    "ParticipantRef",
    "Registration",
    "checked_priority",
    "checked_size",
    "closed_error",
    "number_text",
    "participant_ref",
    "place_of_call",
    "recall_excess",
    "refuse_coroutine_function",
]

#: What the names of our own files begin with.
_OURS: Final = join(dirname(__file__), "")


class Handle:
    """Base of handles: they stand for a place in one process's books and cannot be copied."""

    __slots__ = ()

    def __reduce__(self) -> str:
        raise TypeError(f"{type(self).__name__} handles cannot be copied or pickled")


class Registration(Holding):
    """The holding of a participation, with what the shell needs of its participant. All references are weak.

    `participant` is None before there is one (`register_participant_with`), and when the participation is over.
    """

    __slots__ = ("known", "line", "participant", "reentrant")

    def __init__(self, node: AccountNode) -> None:
        super().__init__(node)
        self.participant: ParticipantRef | None = None
        # What was known of its age when it asked for another survey.
        self.known: float | None = None
        self.reentrant = False
        # The handle that has credit, if one has.
        self.line: weakref.ref[CreditLine] | None = None

    def target(self) -> Any:
        """The participant, or None when it is gone."""
        return self.participant() if self.participant is not None else None

    def last_age(self) -> float | None:
        """What is known of its age without asking."""
        if self.entry is not None and self.entry[1] == -inf and not self.surveyed_in:
            return self.known
        return self.entry[1] if self.entry is not None else None

    def in_use(self) -> int:
        """What is claimed and not in a handle as credit. Exact when its owner does nothing meanwhile."""
        reference = self.line  # read once: another thread may take it away
        line = reference() if reference is not None else None
        # Where nothing is counted there is credit all the same, to keep the fast path.
        return max(0, self.booked - (max(0, line._credit) if line is not None else 0))

    def recall(self) -> None:
        """Let the next release of the handle that has credit come to the books."""
        reference = self.line
        line = reference() if reference is not None else None
        if line is not None:
            line._cap = NO_CREDIT - 1

    def cut(self) -> None:
        """The holding is over: let the next call of the handle come to the books.

        A claim under way in another thread may put its credit back once more; those bytes are written off already.
        """
        reference = self.line
        line = reference() if reference is not None else None
        if line is not None:
            line._cap = NO_CREDIT - 1
            line._credit = NO_CREDIT
        self.participant = None
        self.line = None


def recall_excess(node: AccountNode) -> None:
    """Let the next release of each handle below come to the books, where more credit is out than the limits allow now.

    Under the lock. O(accounts above), or O(subtree) where there is too much.
    """
    if any(above.scope is not None and above.scope.credit_out > above.scope.limits.credit for above in node.scoped()):
        for member in subtree(node):
            for holding in member.live_holdings():
                if isinstance(holding, Registration):
                    holding.recall()


class ParticipantRef(weakref.ref[Any]):
    """The weak reference to a participant. When it dies, the reference itself is the note that says so."""

    __slots__ = ("registration",)
    registration: Registration


def participant_ref(
    participant: Any, registration: Registration, note: Callable[[object], None], *, awaited: bool
) -> ParticipantRef:
    """Look at a participant, note in its registration what it is, and refer to it weakly. Not under the lock.

    Args:
        participant: Anybody's object.
        registration: Its place in the books.
        note: Called with the reference when the participant dies.
        awaited: Whether it may be asynchronous.

    Raises:
        UsageError: It is no participant.
    """
    kind = type(participant).__name__
    for method in ("oldest_data", "reclaim"):
        if not callable(getattr(participant, method, None)):
            raise UsageTypeError(f"a participant needs a method {method}; {kind} has none")
    if not awaited and _is_coroutine_function(participant.reclaim):
        raise UsageTypeError(f"{kind}.reclaim is a coroutine function: that takes a tracker with reclaimer='task'")
    registration.label = kind
    registration.reentrant = getattr(participant, "reentrant", False) is True  # not whatever a proxy answers
    try:
        reference = ParticipantRef(participant, note)
    except TypeError:
        raise UsageTypeError(f"{kind} supports no weak references: give it a __weakref__ slot") from None
    reference.registration = registration
    return reference


def _is_coroutine_function(function: object) -> bool:
    # What `def` made says so itself. Asking `inspect` takes a third of a registration on Python 3.13.
    code = getattr(function, "__code__", None)
    return bool(code.co_flags & CO_COROUTINE) if isinstance(code, CodeType) else iscoroutinefunction(function)


def refuse_coroutine_function(function: object, what: str) -> None:
    """Refuse what would be called and never awaited, so that nothing of it would run.

    Raises:
        UsageError: It is a coroutine function.
    """
    if _is_coroutine_function(function):
        raise UsageTypeError(f"{what} cannot be a coroutine function: nobody would await it")


def checked_size(size: object, what: str) -> int:
    """The argument of a claim or release as an int.

    Raises:
        UsageError: It is no integer, or a bool (also a TypeError); it is negative or above 2**62 (also a ValueError).
    """
    if type(size) is not int:
        try:
            if isinstance(size, bool | float):
                raise TypeError
            size = index(size)  # type: ignore[arg-type]  # says itself what it does not take
        except TypeError:
            raise UsageTypeError(f"{what} takes a number of bytes as an int, not {type(size).__name__}") from None
    if size < 0:
        raise UsageValueError(f"{what} of {number_text(size)} bytes: a size cannot be negative")
    if size > LARGEST_SIZE:
        raise UsageValueError(f"{what} of {number_text(size)} bytes: sizes above 2**62 are refused")
    return size


def checked_priority(priority: object) -> int:
    """A priority as an int, or UsageError."""
    if type(priority) is not int:
        raise UsageTypeError(f"a priority must be an int, not {priority!r}")
    return priority


def number_text(number: int) -> str:
    """An int for people, however large."""
    if number.bit_length() <= 128:
        return str(number)
    return f"{'-' if number < 0 else ''}2**{number.bit_length() - 1} or more"


def closed_error(node: AccountNode, holding: Holding | None = None) -> MemoryQuotaError:
    """The error that tells why a claim cannot be: the account or the participation is over."""
    reason = node.ended
    if reason is not None:
        if reason.kind is CloseKind.TRACKER_CLOSED:
            return TrackerClosed(f"account {node.name!r}: {reason.text}")
        if reason.kind.under_pressure:
            text = f"account {node.name!r} gave up its memory: {reason.text}"
            return MemoryReclaimed(text, reason=reason, when=reason.when)
        return AccountClosed(f"account {node.name!r} is closed: {reason.text}")
    why = holding.ended if holding is not None and holding.ended is not None else "closed"
    return ParticipationClosed(f"participation in account {node.name!r} is over: {why}")


def place_of_call() -> str:
    """File and line of who called the method that calls the function that asks; the same text for the same place."""
    depth = 3
    try:
        # Not by `f_back`: without memory it answers None and leaves the exception for whoever comes next.
        while (frame := _getframe(depth)).f_code.co_filename.startswith(_OURS):
            depth += 1
    except ValueError:  # no Python code did: a thread began with the method itself
        return ""
    return intern(f"{frame.f_code.co_filename}:{frame.f_lineno}")
