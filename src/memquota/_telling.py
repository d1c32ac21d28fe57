"""What is told of with the lock of the books free: callbacks, warnings, and how none of that is lost or done twice."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from memquota._core.events import CloseReason, Event
from memquota._core.graph import AccountNode

__all__ = ["CloseCallback", "LateWarning", "act_on_first", "take"]

R = TypeVar("R")


class LateWarning(Event):
    """A warning to be given once the lock is free, of what was done at some place, or of nobody knows where."""

    __slots__ = ("text", "where")

    def __init__(self, text: str, where: str = "") -> None:
        self.text = text
        self.where = where

    def give(self) -> None:
        """Warn. Raises where a filter turns that into an error."""
        file, _, line = self.where.rpartition(":")
        if file:
            warnings.warn_explicit(self.text, ResourceWarning, file, int(line))
        else:
            warnings.warn(self.text, ResourceWarning, stacklevel=2)


class CloseCallback(Event):
    """A callback of an account, to be called with the lock free when the account has closed.

    One that is `restartable` is called anew where an exception from outside interrupted it, or memory ran out: others
    may wait for what it does.

    Attributes:
        told: Whether it was called, or nobody wants it to be called any more.
    """

    __slots__ = ("account", "callback", "restartable", "told")

    def __init__(
        self, callback: Callable[[CloseReason], object], account: AccountNode, *, restartable: bool = False
    ) -> None:
        self.callback = callback
        self.account = account
        self.restartable = restartable
        self.told = False


def act_on_first(items: deque[R], action: Callable[[list[R | None]], object]) -> None:
    """Take the first item out and act on it.

    The action gets it in a list, and puts None there when it is done, or is about to do what must not be done twice. No
    exception from outside comes between taking and having: that is one call, which is not made of Python code. Where
    one comes later, or memory runs out, and before that None, the item goes back, which takes no memory.
    """
    hand: list[R | None] = []
    try:
        try:
            hand.extend(map(deque.popleft, (items,)))
        except IndexError:  # another thread was faster
            return
        action(hand)
    except BaseException:
        if hand and hand[0] is not None:
            items.appendleft(hand[0])
        raise


def take(items: deque[R]) -> R | None:
    try:
        return items.popleft()
    except IndexError:  # another thread was faster
        return None
