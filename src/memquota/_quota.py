"""Limits that follow from the host's memory: "auto", a percentage, and a quota that moves with a container's size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, final

from attrs import frozen

from memquota._core.accounts import reconfigure
from memquota._core.limits import LARGEST_SIZE, Limits
from memquota._handles import recall_excess
from memquota._rounds import Rounds
from memquota.errors import UsageTypeError, UsageValueError, size_text
from memquota.observe.log import Trouble, log_host

if TYPE_CHECKING:
    from memquota.host import Provider

__all__ = ["Following", "Quota", "Share", "effective_limit", "provider_or_error", "share_of"]

_PERCENTAGE: Final = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,9}))?\s*%")


@frozen
class Share:
    """A limit that was given in relation to the host's memory.

    Attributes:
        text: As it was given.
        parts: Of so many parts of the memory ...
        whole: ... out of this many; 0 for "auto".
    """

    text: str
    parts: int = 0
    whole: int = 0

    def of(self, effective: int) -> int:
        """The limit in bytes where the host's effective limit is this.

        Raises:
            UsageError: Nothing is left to share out.
        """
        if self.whole:
            size = effective * self.parts // self.whole
        elif effective:
            from memquota.host import default_quota

            size = min(default_quota(effective), effective * 3 // 4)
        else:
            size = 0
        if not size:
            raise UsageValueError(
                f"limit {self.text!r} of a host whose effective limit is {effective} bytes is nothing"
            )
        return min(size, LARGEST_SIZE)


def share_of(limit: object) -> Share | None:
    """A limit given as "auto" or as a percentage; None for one in bytes.

    Raises:
        UsageError: A percentage that is not above 0 and at most 100, or cannot be read.
    """
    if not isinstance(limit, str):
        return None
    text = limit.strip()
    if text == "auto":
        return Share(text)
    if not text.endswith("%"):
        return None
    match = _PERCENTAGE.fullmatch(text)
    if match is None:
        raise UsageValueError(f"limit {limit!r} is not a percentage such as '80%' or '62.5%'")
    fraction = match[2] or ""
    parts, whole = int(match[1] + fraction), 100 * 10 ** len(fraction)
    if not 0 < parts <= whole:
        raise UsageValueError(f"limit {limit!r} is not above 0 % and at most 100 % of the host's effective limit")
    return Share(text, parts, whole)


def effective_limit(share: Share, provider: Provider | None = None) -> int:
    """The host's effective limit in bytes, as a provider says, or as is found out where there is none.

    Raises:
        UsageError: It is not known.
    """
    from memquota import host  # costs a while, and only those pay who ask

    try:
        if provider is not None:
            return provider.read().limit
        with host.detect() as detected:
            return detected.read().limit
    except OSError as error:
        raise UsageValueError(
            f"limit {share.text!r} needs to know the host's memory, which is unknown ({error}): give a number of bytes"
        ) from error


def provider_or_error(provider: Provider) -> Provider:
    """The argument, or UsageError where it is no provider."""
    if not callable(getattr(provider, "read", None)):
        raise UsageTypeError(f"a provider must have a method read, not {provider!r}")
    return provider


class Quota:
    """How a tracker's limits were given. Changed under its lock."""

    __slots__ = ("base", "following", "share")

    def __init__(self, share: Share | None, base: Limits) -> None:
        # None: in bytes, which nothing moves.
        self.share = share
        # The limits as they were given last, to be scaled as a whole.
        self.base = base
        # Who moves the limits; later ones replace it.
        self.following: Following | None = None

    def effective_limit(self, share: Share) -> int:
        """What a share is of: what the followed provider tells, else the host. Not under the lock."""
        return effective_limit(share, self.following.provider if self.following is not None else None)

    def moved(self, effective: int) -> Limits | None:
        """The limits where the host's effective limit is this; None: they were given in bytes.

        Raises:
            UsageError: Nothing is left to share out.
        """
        if self.share is None:
            return None
        base = self.base
        limit, old = self.share.of(effective), base.bound
        low = None if base.low_water_set is None else base.low_water_set * limit // old
        hard = None if base.hard_limit is None else min(base.hard_limit * limit // old, LARGEST_SIZE)
        return Limits(limit, low, hard)


@final
class Following:
    """Moves a tracker's limits to where a provider's effective limit puts them.

    Threads:
        `look` by one at a time.
    """

    def __init__(self, rounds: Rounds, quota: Quota, provider: Provider) -> None:
        self.provider = provider_or_error(provider)
        self._rounds = rounds
        self._quota = quota
        name = rounds.books.ledger.root.name
        self._trouble = Trouble(
            f"{name}: the limit stays as it is, because the host's is unknown",
            f"{name}: the limit follows the host again",
        )

    def look(self) -> bool:
        """Read the provider and move the limits. Whether a round may be due: running it is left to the caller."""
        try:
            effective = self.provider.read().limit
            moved = self._rounds.books.enter(self._move, effective)
        except Exception as error:  # whatever a provider does, user work goes on with the limits that there are
            self._trouble.begins(error)
            return False
        self._trouble.ends()
        if moved is None:
            return False
        old, new = moved
        log_host(
            f"{self._rounds.books.ledger.root.name}: the limit moves from {size_text(old)} to {size_text(new)}: "
            f"the host's effective limit is {size_text(effective)}"
        )
        return new < old

    def tick(self) -> bool:
        """Look, from a thread of its own; whether it has to go on."""
        # Inline, the next claim runs the round in its own thread: participants are called by nobody else there.
        if self.look() and not getattr(self._rounds.reclaimer, "inline", False):
            self._rounds.relieve(None)
        return self._quota.following is self

    def let_go(self) -> None:
        """Follow no longer."""
        self._rounds.books.enter(self._let_go)

    def _let_go(self) -> None:
        # Lock: held.
        if self._quota.following is self:
            self._quota.following = None

    def _move(self, effective: int) -> tuple[int, int] | None:
        # Lock: held.
        ledger = self._rounds.books.ledger
        old = ledger.root_scope.limits
        if self._rounds.books.closed or self._quota.following is not self:
            return None
        new = self._quota.moved(effective)
        if new is None or new == old:
            return None
        reconfigure(ledger, ledger.root, new, ledger.root.minimum, ledger.root.priority)
        recall_excess(ledger.root)
        return old.bound, new.bound
