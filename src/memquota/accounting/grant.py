"""Grant: what may be planned with."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, final

from attrs import field, frozen

from memquota._quota import Share, effective_limit, provider_or_error, share_of
from memquota.errors import UsageTypeError, UsageValueError
from memquota.sizes import LARGEST_SIZE, format_size, parse_size

if TYPE_CHECKING:
    from memquota.host import Provider

__all__ = ["Grant"]


@final
@frozen(init=False)
class Grant:
    """What the process was given, and how much of it may be planned with.

    Not all of it: the interpreter, modules and what the allocator keeps are declared by nobody. The slop is their part.

    Args:
        limit: Bytes, as an int or as text ("512MiB"). "80%": of the host's effective limit
            (`memquota.host.limits().effective`). "auto": all of that. With the slop of a quarter, that is what
            `Tracker("auto")` takes of a host below 8 GiB.
        slop: The part of the limit that is left alone: at least 0 and below 1.
        provider: Who tells the host's effective limit; None: the host is asked. Not closed in the end.

    Raises:
        UsageError: A wrong argument, a limit of 0, or one in relation to the host's where that is unknown.

    Attributes:
        given: The limit as it was given.
        limit: In bytes.
        slop: As it was given.
        available: What may be planned with, in bytes: the limit without the slop, rounded down.

    Example:
        >>> from memquota.accounting import Grant
        >>> Grant("512MiB").available == 384 * 1024**2
        True
    """

    given: str = field(eq=False)
    limit: int
    slop: float
    available: int

    def __init__(self, limit: int | str = "auto", slop: float = 0.25, *, provider: Provider | None = None) -> None:
        if isinstance(slop, bool) or not isinstance(slop, int | float):
            raise UsageTypeError(f"slop must be a number, not {slop!r}")
        if not 0 <= slop < 1:  # nor NaN
            raise UsageValueError(f"slop must be at least 0 and below 1, not {slop!r}")
        if provider is not None:
            provider_or_error(provider)
        share = _share(limit)
        if share is None:
            size = parse_size(limit, what="limit")
        else:
            size = min(share.of(effective_limit(share, provider)), LARGEST_SIZE)
        if not size:
            raise UsageValueError("a limit of 0 grants nothing")
        # The decimal number that was written, not the binary one that is next to it: 0.1 of 100 is 10.
        available = size * (1 - Fraction(repr(float(slop)))) // 1
        for name, value in (
            ("given", limit.strip() if isinstance(limit, str) else f"{size} bytes"),
            ("limit", size),
            ("slop", float(slop)),
            ("available", available),
        ):
            object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        return {"given": self.given, "limit": self.limit, "slop": self.slop, "available": self.available}

    def __str__(self) -> str:
        if not self.slop:
            return format_size(self.available)
        return f"{format_size(self.available)} ({format_size(self.limit)} less {self.slop * 100:.12g} %)"


def _share(limit: object) -> Share | None:
    share = share_of(limit)
    # A tracker's "auto" leaves room by a rule of its own; here that is for the slop.
    return Share(share.text, 1, 1) if share is not None and not share.whole else share
