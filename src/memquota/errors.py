"""Every exception that memquota raises; the set is closed.

::

    MemoryQuotaError            never raised itself
    ├── UsageError              the caller's fault
    │   ├── UsageTypeError      also a TypeError
    │   └── UsageValueError     also a ValueError
    ├── BoundsError             what was declared does not fit, or contradicts itself
    ├── QuotaExceeded           refused by a hard limit or a gate
    ├── Closed
    │   ├── TrackerClosed
    │   ├── ParticipationClosed
    │   └── AccountClosed
    │       └── MemoryReclaimed  given up under pressure; also an anyio.BrokenResourceError
    └── TrackerBroken           our fault

Whatever cannot be had at once without waiting raises `anyio.WouldBlock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from memquota._core.events import CloseReason
    from memquota.accounting.problems import Problem

__all__ = [
    "AccountClosed",
    "BoundsError",
    "Closed",
    "MemoryQuotaError",
    "MemoryReclaimed",
    "ParticipationClosed",
    "QuotaExceeded",
    "TrackerBroken",
    "TrackerClosed",
    "UsageError",
    "UsageTypeError",
    "UsageValueError",
]


class MemoryQuotaError(Exception):
    """Base of all errors of memquota; never raised itself."""


class UsageError(MemoryQuotaError):
    """The caller did what the documentation forbids; nothing was changed."""


class UsageTypeError(UsageError, TypeError):
    """An argument has the wrong type."""


class UsageValueError(UsageError, ValueError):
    """An argument has the right type and a value that cannot be used."""


class QuotaExceeded(MemoryQuotaError):
    """A claim was refused by a hard limit or a gate; nothing was claimed.

    Args:
        account: The name of the account that claimed.
        asked: What was asked for, in bytes.
        used: What was in use, in bytes, where the limit holds.
        limit: The limit that refused, in bytes.
        holders: Name and bytes of the largest holders below that limit, largest first. Of more than 256, those that
            were the largest when they were looked for last, every n/256 refusals: that takes a while.
        why: The message, where it is not about these numbers alone.
    """

    def __init__(
        self,
        account: str,
        asked: int,
        used: int,
        limit: int,
        holders: Sequence[tuple[str, int]] = (),
        why: str | None = None,
    ) -> None:
        # All fields are arguments, so that the exception survives pickling and copying.
        super().__init__(account, asked, used, limit, tuple(holders), why)
        self.account = account
        self.asked = asked
        self.used = used
        self.limit = limit
        self.holders: tuple[tuple[str, int], ...] = tuple(holders)
        self.why = why

    def __str__(self) -> str:
        if self.why is not None:
            return self.why
        text = (
            f"claim of {size_text(self.asked)} by {self.account!r} refused: "
            f"{size_text(self.used)} used of {size_text(self.limit)}"
        )
        if self.holders:
            largest = ", ".join(f"{name!r} {size_text(size)}" for name, size in self.holders)
            text += f"; largest holders: {largest}"
        return text


class BoundsError(MemoryQuotaError):
    """The declared bounds do not fit into what was granted, or contradict themselves; nothing was changed.

    No UsageError: the same program may be right on a larger host.

    Args:
        message: All that is wrong, a line for each and for each of its contributors.
        problems: The same as values, as `memquota.accounting` defines them.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.problems: tuple[Problem, ...] = tuple(problems)

    def __str__(self) -> str:
        return str(self.args[0])


class Closed(MemoryQuotaError):
    """What was used is closed."""


class TrackerClosed(Closed):
    """The tracker is closed."""


class ParticipationClosed(Closed):
    """The participation ended: it was closed or destroyed, or its participant failed."""


class AccountClosed(Closed):
    """The account is closed."""


class MemoryReclaimed(AccountClosed, anyio.BrokenResourceError):
    """The account gave up its memory under pressure.

    Args:
        message: What happened, in a sentence.
        reason: Why the account was closed.
        when: When it was closed, in seconds of the tracker's clock.
    """

    def __init__(self, message: str, reason: CloseReason | None = None, when: float | None = None) -> None:
        super().__init__(message, reason, when)
        self.reason = reason
        self.when = when

    def __str__(self) -> str:
        return str(self.args[0])


class TrackerBroken(MemoryQuotaError):
    """The books do not balance: a fault of memquota, not of the caller."""


_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


# It stands here because this module imports nothing of ours and its messages name sizes.
def size_text(size: int) -> str:
    """Bytes for people to read; `memquota.sizes.format_size` is its public name."""
    rest = abs(size)
    if rest < 1024:
        return f"{size} B"
    power = min((rest.bit_length() - 1) // 10, len(_UNITS))
    tenths = (rest * 10 + 1024**power // 2) // 1024**power
    if tenths == 10240 and power < len(_UNITS):  # 1023.95 KiB and above rounds to 1.0 MiB
        tenths, power = 10, power + 1
    sign = "-" if size < 0 else ""
    return f"{sign}{tenths // 10}.{tenths % 10} {_UNITS[power - 1]}"
