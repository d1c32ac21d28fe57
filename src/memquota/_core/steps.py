"""What a round wants done next: values, for whoever runs it."""

from __future__ import annotations

from typing import TypeAlias

from attrs import define, field, frozen

from .events import RoundEnded
from .graph import AccountNode
from .holdings import Holding

__all__ = ["Ask", "Offer", "Step", "Survey", "Wait"]


# Survey and Ask are not frozen: a round makes some for each victim, and that takes a fourth of the time so.


@define
class Survey:
    """Ask these for their age, then report with `Round.surveyed`. May be empty: only lets others in.

    `survey` is the number of the survey that it is part of.
    """

    holdings: tuple[Holding, ...]
    survey: int


@frozen
class Offer:
    """Order by the policy what that survey found, and hand over the next ones with `Round.offered`."""

    survey: int


@frozen
class Wait:
    """Nothing to do before one of the outstanding asks is settled."""


@define(eq=False)
class Ask:
    """Ask these participants of a victim for memory, then report with `Round.settle`.

    Attributes:
        victim: The account.
        members: It and its descendants, except who is being asked already.
        holdings: What they hold, including what is empty or over.
        why: The reason, in words.
        used: What the victim held, in bytes.
        wanted: How much of that is wanted back.
        chosen: Whose turn it was.
        newest: Data newer than this need not go: it is newer than the oldest of the next candidate of its priority.
        returned: What the victim had ever returned before.
    """

    victim: AccountNode
    chosen: Holding = field(repr=False)
    members: list[AccountNode]
    holdings: list[Holding] = field(repr=False)
    why: str
    used: int
    wanted: int
    newest: float
    returned: int


Step: TypeAlias = "Survey | Offer | Wait | Ask | RoundEnded"
