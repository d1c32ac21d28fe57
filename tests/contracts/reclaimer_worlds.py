"""Trackers with each reclaimer, told of from a thread that none of them runs rounds in but the inline one."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from memquota import MemoryQuotaError, Tracker
from memquota.observe import Event, RoundEnded, VictimAsked, VictimOutcome, VictimSettled
from memquota.reclaimers import Rounds, run_here
from memquota.testing import AsyncScriptedParticipant, FakeClock, ScriptedParticipant, assert_books_balance

E = TypeVar("E", bound=Event)

#: Who runs the rounds, and what the participants are.
KINDS = (
    "inline",
    "thread",
    "own",
    "task on asyncio",
    "task on trio",
    "task on asyncio, async participants",
    "task on trio, async participants",
)
SYNCHRONOUS = ("inline", "thread", "own")
TASKS = tuple(kind for kind in KINDS if kind.startswith("task"))
ASYNC = tuple(kind for kind in KINDS if kind.endswith("async participants"))

#: Longer than anything here takes, in seconds: who waits so long hangs.
PATIENCE = 30.0


class OwnReclaimer:
    """A reclaimer as a user might write it: each round in a thread of its own."""

    asynchronous = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.raised: SimpleQueue[BaseException] = SimpleQueue()
        self._rounds: Rounds | None = None

    def attach(self, rounds: Rounds) -> None:
        self.calls.append("attach")
        self._rounds = rounds

    def wake(self, claimer: object) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        assert self._rounds is not None
        try:
            run_here(self._rounds, to_the_end=True)
        except BaseException as error:
            self.raised.put(error)

    def close(self) -> None:
        self.calls.append("close")


class World:
    """A tracker with a limit of 1000 bytes and a low water of 750, and someone who runs its rounds."""

    def __init__(self, kind: str, *, reclaim_timeout: float = PATIENCE, **options: Any) -> None:
        self.kind = kind
        self.clock = FakeClock(100.0)
        self.events: list[Event] = []
        self._ended: SimpleQueue[RoundEnded] = SimpleQueue()
        self._holders: list[ScriptedParticipant] = []
        self._exits = ExitStack()
        self.reclaimer: Any = kind.split(" on ")[0]
        if kind == "own":
            self.reclaimer = OwnReclaimer()
        options.setdefault("reclaimer", self.reclaimer)
        self.tracker = Tracker(1000, clock=self.clock, reclaim_timeout=reclaim_timeout, **options)
        self.tracker.subscribe(self._note)
        self.portal: BlockingPortal | None = None

    @property
    def backend(self) -> str:
        return self.kind.split(" on ")[1].split(",")[0]

    def __enter__(self) -> World:
        if self.kind in TASKS:
            self.portal = self._exits.enter_context(start_blocking_portal(self.backend))
            self.run()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for holder in self._holders:
            holder.wake()
        if kind is None:
            assert_books_balance(self.tracker)
        self.tracker.close()
        self._exits.close()

    def run(self) -> Any:
        """Have the loop's thread run the tracker. Returns the future of that."""
        assert self.portal is not None
        return self.portal.start_task(self.tracker.run)[0]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, RoundEnded):
            self._ended.put(event)

    def holder(self, name: str, size: int = 0, **options: Any) -> ScriptedParticipant:
        """A participant in an account of its own, with an item of this size. Each one's data is younger."""
        sort = AsyncScriptedParticipant if self.kind in ASYNC else ScriptedParticipant
        holder = sort(self.tracker.new_account(name), self.clock, **options)
        self._holders.append(holder)
        self.clock.advance(1)
        if size:
            holder.put(size)
        return holder

    def overflow(self, size: int = 1000) -> RoundEnded:
        """Claim so much that a round runs, and wait for its end."""
        self.clock.advance(1)
        try:
            self.tracker.new_account("overflow").claim(size)
        except MemoryQuotaError:  # when the account itself is the last victim
            pass
        return self.ended()

    def ended(self) -> RoundEnded:
        """How the next round ended, or the first one that was not looked at."""
        return self._ended.get(timeout=PATIENCE)

    def told(self, kind: type[E]) -> list[E]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def asked(self) -> list[str]:
        """The names of the victims, in order."""
        return [event.account for event in self.told(VictimAsked)]

    @property
    def settled(self) -> dict[str, VictimOutcome]:
        """What became of them."""
        return {event.account: event.outcome for event in self.told(VictimSettled)}
