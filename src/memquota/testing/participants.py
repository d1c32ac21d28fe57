"""Participants that answer, fail, hang, lie or re-enter as they are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import nan
from threading import Event
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel

from memquota.account import Account
from memquota.clock import Clock
from memquota.errors import UsageValueError
from memquota.participant import Reclaimed, ReclaimRequest

__all__ = ["AsyncScriptedParticipant", "ScriptedParticipant"]

#: What to do when asked for memory: a name, or a function of the participant and the request that does and answers.
Answer: TypeAlias = "str | Callable[[Any, ReclaimRequest], object]"
#: What to say when asked for its age: a name, or a function of the participant.
Age: TypeAlias = "str | Callable[[Any], object]"


class ScriptedParticipant:
    """A participant that holds items of some bytes each, and does as it is told when it is asked.

    Args:
        account: Where it registers.
        clock: The tracker's clock.
        answer: What it does in `reclaim`: "collapse" (gives up all), "partial" (frees what is wanted, oldest first),
            "nothing" (says PARTIAL and frees nothing), "trickle" (frees one byte), "nonsense", "raise", "hang" (until
            `wake`), or a function `f(participant, request)`.
        age: What it says in `oldest_data`: "honest", "none", "future", "nan", "text", "huge", "raise", "hang", or a
            function `f(participant)`.
        reentrant: Whether it may be called by the thread that claims for it.

    Attributes:
        account: The account, which it keeps open.
        participation: Its handle.
        items: What it holds, as (time, bytes), oldest first.
        requests: What it was asked for, in order.
        surveys: How often it was asked for its age.
        hanging: Set while it hangs.
    """

    def __init__(
        self,
        account: Account,
        clock: Clock,
        *,
        answer: Answer = "collapse",
        age: Age = "honest",
        reentrant: bool = False,
    ) -> None:
        self.answer = answer
        self.age = age
        self.reentrant = reentrant
        self.items: deque[tuple[float, int]] = deque()
        self.requests: list[ReclaimRequest] = []
        self.surveys = 0
        self.hanging = Event()
        self._wake = Event()
        self._clock = clock
        self.account = account
        self.participation = account.register_participant(self)

    @property
    def held(self) -> int:
        """What it holds, in bytes."""
        return sum(size for _, size in self.items)

    def put(self, size: int) -> None:
        """Claim and take in an item. Errors as for `Participation.claim`; nothing is taken in then."""
        self.participation.claim(size)
        self.items.append((self._clock(), size))

    def get(self) -> int:
        """Give out the oldest item and release it. Returns its size."""
        _, size = self.items.popleft()
        self.participation.release(size)
        return size

    def wake(self) -> None:
        """Let it go on where it hangs, now and later."""
        self._wake.set()

    def oldest_data(self) -> Any:
        """Answer as told by `age`."""
        self.surveys += 1
        if callable(self.age):
            return self.age(self)
        match self.age:
            case "honest":
                return self.items[0][0] if self.items else None
            case "none":
                return None
            case "future":
                return self._clock() + 1e9
            case "nan":
                return nan
            case "text":
                return "yesterday"
            case "huge":
                return -(10**400)
            case "raise":
                raise RuntimeError("oldest_data fails as it was told")
            case "hang":
                self._hang()
                return None
            case _:
                raise UsageValueError(f"no such age: {self.age!r}")

    def reclaim(self, request: ReclaimRequest) -> Any:
        """Answer as told by `answer`."""
        self.requests.append(request)
        if self.answer == "hang":
            self._hang()
        return self._respond(request)

    def _hang(self) -> None:
        self.hanging.set()
        self._wake.wait(60)  # a test that forgets `wake` ends all the same
        self.hanging.clear()

    def _respond(self, request: ReclaimRequest) -> object:
        if callable(self.answer):
            return self.answer(self, request)
        match self.answer:
            case "collapse" | "hang":
                self.items.clear()
                return Reclaimed.COLLAPSING
            case "partial":
                freed = 0
                while self.items and freed < request.bytes_wanted:
                    freed += self.get()
                return Reclaimed.PARTIAL
            case "nothing":
                return Reclaimed.PARTIAL
            case "trickle":
                while self.items and not self.items[0][1]:
                    self.items.popleft()
                if self.items:
                    time, size = self.items.popleft()
                    if size > 1:
                        self.items.appendleft((time, size - 1))
                    self.participation.release(1)
                return Reclaimed.PARTIAL
            case "nonsense":
                return "maybe later"
            case "raise":
                raise RuntimeError("reclaim fails as it was told")
            case _:
                raise UsageValueError(f"no such answer: {self.answer!r}")


class AsyncScriptedParticipant(ScriptedParticipant):
    """The same with a coroutine function `reclaim`, for trackers with `reclaimer="task"`. It hangs without blocking."""

    async def reclaim(self, request: ReclaimRequest) -> Any:
        """Answer as told by `answer`, after letting others run once."""
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()
        if self.answer == "hang":
            self.hanging.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.hanging.clear()
        return self._respond(request)
