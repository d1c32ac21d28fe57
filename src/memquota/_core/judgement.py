"""What an answer of `oldest_data` is worth."""

from __future__ import annotations

from math import inf, isnan
from typing import NamedTuple, cast

from .holdings import Holding

__all__ = ["Judged", "describe_age", "judge"]


class Judged(NamedTuple):
    """What an answer is worth.

    Attributes:
        time: The time to order by.
        idle: It holds nothing that can be asked for.
        silent: It named no age though it has bytes booked.
        complaint: What was wrong with the answer, if anything was.
    """

    time: float
    idle: bool = False
    silent: bool = False
    complaint: str | None = None


def judge(holding: Holding, answer: object, now: float) -> Judged:
    """Judge what a participant said of its oldest data. Changes nothing.

    A time in the future is now. None is now the first time (bytes are claimed before they are enqueued), and very old
    when a later round gets it again and nothing was claimed in between. Nonsense is very old.
    """
    if type(answer) is float and not isnan(answer):  # nearly always
        return Judged(min(answer, now))
    if answer is None:
        if holding.booked <= holding.cap:
            return Judged(now, idle=True)  # all of it may be the handle's credit
        if holding.silent_since == holding.claims:
            text = f"names no age twice, yet holds {holding.booked} bytes"
            return Judged(-inf, silent=True, complaint=text)
        return Judged(now, silent=True)
    sort = type(answer)  # rather than isinstance, and the slots of float and int: runs no code of a subclass
    time: float
    if sort is not bool and issubclass(sort, int):
        time = int.__add__(cast(int, answer), 0)
        return Judged(now if time >= now else float(time) if time > -(2**1000) else -inf)
    if not issubclass(sort, float) or isnan(time := float.__add__(cast(float, answer), 0.0)):
        return Judged(-inf, complaint=f"answered {_short(answer)} for the time of its oldest data")
    return Judged(min(time, now))


def describe_age(time: float, now: float) -> str:
    """An age in words."""
    if time == -inf:
        return "of unknown age, which counts as very old"
    return f"{max(0.0, now - time):.3f} s old"


def _short(answer: object) -> str:
    """A foreign object in a few characters, without calling its code."""
    sort = type(answer)
    if sort is float:
        return "NaN"
    return f"an object of type {sort.__name__}"
