"""Limit, low water and hard limit of one account or of the whole tracker: the only place where they are compared."""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import evolve, field, frozen

from memquota.errors import UsageValueError

__all__ = ["KEEP", "LARGEST_SIZE", "Keep", "Limits"]

#: Sizes above this are refused: the last power of two that leaves sums of a few of them within 64 bits.
LARGEST_SIZE: Final = 2**62

#: The part of a limit that may be out as credit in handles, and so the largest error of `used`: 1/32.
CREDIT_SHARE: Final = 32


class Keep(Enum):
    """The type of `KEEP`, which stands for "as it is" where None has a meaning of its own."""

    KEEP = "keep"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP


@frozen
class Limits:
    """What one account or the tracker may hold, in bytes. Always valid; never changed, only replaced.

    `low_water` None follows the limit at 75 %. `limit` None with a hard limit: refuses, but is never over.
    """

    limit: int | None
    low_water_set: int | None = None
    hard_limit: int | None = None
    #: The limit, or the hard limit where there is no other. What follows from the limits is worked out once: every
    #: claim that comes to the books asks for it.
    bound: int = field(init=False, repr=False)
    #: Where a round stops.
    low_water: int = field(init=False, repr=False)
    #: How much may be out as credit in handles, in all.
    credit: int = field(init=False, repr=False)

    @bound.default
    def _bound(self) -> int:
        return self.limit if self.limit is not None else self.hard_limit or 0

    @low_water.default
    def _low_water(self) -> int:
        return self.low_water_set if self.low_water_set is not None else self.bound * 3 // 4

    @credit.default
    def _credit(self) -> int:
        return self.bound // CREDIT_SHARE

    def __attrs_post_init__(self) -> None:
        for what, size, least in (
            ("limit", self.limit, 1),
            ("low water", self.low_water_set, 0),
            ("hard limit", self.hard_limit, 1),
        ):
            if size is not None and not least <= size <= LARGEST_SIZE:
                raise UsageValueError(f"{what} of {size} bytes is not between {least} and 2**62")
        if self.limit is None and self.low_water_set is not None:
            raise UsageValueError("a low water without a limit means nothing")
        if self.limit is not None:
            if self.low_water_set is not None and self.low_water_set > self.limit:
                raise UsageValueError(f"low water {self.low_water_set} is above the limit {self.limit}")
            if self.hard_limit is not None and self.hard_limit < self.limit:
                raise UsageValueError(f"hard limit {self.hard_limit} is below the limit {self.limit}")

    def over(self, used: int) -> bool:
        """Whether reclamation has to start."""
        return self.limit is not None and used > self.limit

    def relaxed(self, used: int) -> bool:
        """Whether reclamation may stop, and credit may be handed out."""
        return used <= self.low_water

    def refuses(self, used: int) -> bool:
        """Whether a claim that leads to this usage is refused."""
        return self.hard_limit is not None and used > self.hard_limit

    def changed(
        self,
        limit: int | Keep | None = KEEP,
        low_water: int | Keep | None = KEEP,
        hard_limit: int | Keep | None = KEEP,
    ) -> Limits:
        """These limits with some replaced, checked as a whole."""
        return evolve(
            self,
            limit=self.limit if limit is KEEP else limit,
            low_water_set=self.low_water_set if low_water is KEEP else low_water,
            hard_limit=self.hard_limit if hard_limit is KEEP else hard_limit,
        )
