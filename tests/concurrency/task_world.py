"""A tracker whose rounds a task runs, watched from the same loop."""

from collections.abc import Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from memquota import Tracker
from memquota.observe import Event, RoundEnded
from memquota.testing import AsyncScriptedParticipant, FakeClock, ScriptedParticipant


class World:
    """A tracker of 1000 bytes, and participants with accounts of their own, each one's data younger."""

    def __init__(self, *, reclaim_timeout: float = 30.0, **options: Any) -> None:
        self.clock = FakeClock(100.0)
        self.tracker = Tracker(1000, clock=self.clock, reclaimer="task", reclaim_timeout=reclaim_timeout, **options)
        self.events: list[Event] = []
        self.tracker.subscribe(self.events.append)
        self.holders: list[ScriptedParticipant] = []

    def holder(
        self, name: str, size: int = 0, sort: type[ScriptedParticipant] = AsyncScriptedParticipant, **options: Any
    ) -> ScriptedParticipant:
        holder = sort(self.tracker.new_account(name), self.clock, **options)
        self.holders.append(holder)
        self.clock.advance(1)
        if size:
            holder.put(size)
        return holder

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def ended(self, rounds: int = 1) -> RoundEnded:
        """The last of so many rounds since the beginning."""
        ended: list[RoundEnded] = []
        with anyio.fail_after(30):
            while len(ended := self.told(RoundEnded)) < rounds:
                await checkpoint()
        return ended[-1]


async def until(truth: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not truth():
            await checkpoint()


async def run(tracker: Tracker, *, task_status: Any) -> None:
    await tracker.run(task_status=task_status)
