"""F44: memory runs out at any allocation of any step of a task at a queue or stream, or of whoever wakes it."""

from __future__ import annotations

import os
import threading
from asyncio import QueueEmpty, QueueFull
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream, WouldBlock
from anyio.abc import TaskGroup

from memquota import AsyncQueue, Closed, QueueShutDown, Tracker, open_stream
from memquota.testing import FakeClock, assert_books_balance
from tests.concurrency.starving import Starving, every_allocation, prepare, run_starving, says_so
from tests.concurrency.starving_tasks import Driven, bells_that_find_no_memory, settled

BACKEND = os.environ.get("BACKEND", "asyncio")
Case = Callable[["World"], Awaitable[object]]
ENDS = (Closed, QueueShutDown, BrokenResourceError, EndOfStream)


class Caller:
    """A task that puts or gets. Notes what becomes of it without taking memory."""

    def __init__(self, call: Callable[[], Awaitable[object]]) -> None:
        self.call = call
        self.got: object = None
        self.done = False
        self.scope = anyio.CancelScope()

    async def run(self, at: int, starving: Starving) -> None:
        """Call, without memory in one step."""
        try:
            with self.scope:
                await (self._call() if at < 0 else Driven(self._call(), at, starving))
        except ENDS:
            pass
        except (MemoryError, SystemError) as error:
            if not says_so(error):
                raise
        finally:
            self.done = True

    async def _call(self) -> None:
        self.got = await self.call()


class World:
    """A queue or a stream with room for a few items; those who wait there, where they are asked for."""

    def __init__(self, tasks: TaskGroup, starving: Starving, kind: str) -> None:
        self.tasks = tasks
        self.starving = starving
        self.kind = kind
        self.tracker = Tracker(1_000_000, clock=FakeClock())
        self.account = self.tracker.new_account("queue")
        self.callers: list[Caller] = []
        self.inside: Any
        size = 0 if kind == "rendezvous" else 2
        if kind == "queue":
            self.queue: AsyncQueue[int] = AsyncQueue(
                self.account, size, cost=lambda item: 1000, on_reclaim="drop_oldest"
            )
            self.inside = self.queue
            self.put, self.get = self.queue.put, self.queue.get
            self.put_nowait, self.get_nowait = self.queue.put_nowait, self.queue.get_nowait
        else:
            self.send, self.receive = open_stream(self.account, size, cost=lambda item: 1000, on_reclaim="drop_oldest")
            self.inside = self.send._shared
            self.put, self.get = self.send.send, self.receive.receive
            self.put_nowait, self.get_nowait = self.send.send_nowait, self.receive.receive_nowait

    async def fill(self) -> None:
        """Two items inside, or on offer, and two who wait to put more."""
        if self.kind != "rendezvous":
            self.put_nowait(0)
            self.put_nowait(1)
        await self.puts(10)
        await self.puts(11)

    async def puts(self, item: int, at: int = -1) -> Caller:
        return await self.calls(lambda: self.put(item), at)

    async def gets(self, at: int = -1) -> Caller:
        return await self.calls(self.get, at)

    async def calls(self, call: Callable[[], Awaitable[object]], at: int = -1) -> Caller:
        """Somebody calls, and waits or not. Without memory in its step of that number."""
        caller = Caller(call)
        self.callers.append(caller)
        self.tasks.start_soon(caller.run, at, self.starving)
        await settled()
        return caller

    def attempt(self, call: Callable[..., object], *args: object) -> object:
        try:
            return call(*args)
        except (QueueFull, QueueEmpty, WouldBlock, *ENDS):
            return None

    async def check(self) -> None:
        """After another call with memory nobody waits in vain, and nothing is there twice."""
        await settled()
        self.tracker.statistics()
        got = []
        if self.inside._putters.waiters:
            got.append(self.attempt(self.get_nowait))
        else:
            self.attempt(self.put_nowait, 99)
        await settled()
        inside = self.inside
        waiting = sum(not caller.done for caller in self.callers)
        lines = [inside._putters, inside._getters]
        if self.kind == "queue":
            lines.append(inside._joiners)
        assert sum(len(line.waiters) for line in lines) == waiting, "somebody is left in a line"
        if self.account.closed:
            assert not waiting, "stranded at the end"
        elif inside._lets_nothing_in():
            assert [*inside._putters.waiters, *inside._getters.waiters] == [], "stranded at the end"
        elif inside._getters.waiters:
            assert [*inside._items, *inside._putters.waiters] == [], "stranded getters"
        elif inside._putters.waiters:
            assert not inside._fits(1000), "stranded putters"
        assert_books_balance(self.tracker)
        got += [caller.got for caller in self.callers] + [entry[0] for entry in inside._items]
        items = [item for item in got if item is not None]
        assert len(items) == len(set(items)), f"twice: {items}"
        self.account.close()
        await settled()
        assert all(caller.done for caller in self.callers), "stranded when it closed"
        assert self.tracker.used == 0
        if self.kind != "queue":
            self.send.close()
            self.receive.close()


CASES: dict[str, tuple[str, Case]] = {}


def case(*kinds: str) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        for kind in kinds:
            CASES[f"{function.__name__}, {kind}"] = kind, function
        return function

    return register


@case("queue", "stream", "rendezvous")
async def get(world: World) -> None:
    await world.fill()
    with world.starving:
        world.get_nowait()


@case("queue", "stream", "rendezvous")
async def put(world: World) -> None:
    await world.gets()
    await world.gets()
    with world.starving:
        world.put_nowait(5)


@case("queue", "stream", "rendezvous")
async def begin_to_put(world: World) -> None:
    await world.fill()
    await world.puts(12, 0)
    await world.puts(13, 1)


@case("queue", "stream", "rendezvous")
async def begin_to_get(world: World) -> None:
    await world.gets(0)
    await world.gets()
    world.attempt(world.put_nowait, 5)


@case("queue", "stream", "rendezvous")
async def go_on_with_put(world: World) -> None:
    await world.fill()
    await world.puts(12, 1 if world.kind == "queue" else 2)
    for _ in range(4):
        world.attempt(world.get_nowait)
        await settled()


@case("queue", "stream", "rendezvous")
async def go_on_with_get(world: World) -> None:
    await world.gets(1 if world.kind == "queue" else 2)
    await world.gets()
    world.attempt(world.put_nowait, 5)
    await settled()


@case("queue", "stream", "rendezvous")
async def be_cancelled(world: World) -> None:
    await world.fill()
    caller = await world.puts(12, 1 if world.kind == "queue" else 2)
    await world.puts(13)
    caller.scope.cancel()


@case("queue", "stream")
async def drop(world: World) -> None:
    await world.fill()
    with world.starving:
        world.tracker.reclaim(0)


@case("queue", "rendezvous")
async def be_woken_by_a_loop(world: World) -> None:
    await world.gets()
    with bells_that_find_no_memory(world.starving):
        thread = threading.Thread(target=world.account.close)
        thread.start()
        thread.join()
        await settled()
    assert not world.callers[0].done or not world.starving.failed
    world.attempt(world.get_nowait)
    await settled()


@case("queue", "stream", "rendezvous")
async def close(world: World) -> None:
    await world.fill()
    with world.starving:
        world.account.close()


@case("queue", "stream")
async def close_where_others_get(world: World) -> None:
    await world.gets()
    await world.gets()
    with world.starving:
        world.account.close()


@case("queue")
async def shut_down(world: World) -> None:
    await world.fill()
    with world.starving:
        world.queue.shutdown()


@case("queue")
async def be_done(world: World) -> None:
    world.put_nowait(0)
    await world.calls(world.queue.join)
    world.get_nowait()
    with world.starving:
        world.queue.task_done()


async def starved() -> None:
    for name in os.environ["CASE"].split(";"):
        kind, function = CASES[name]
        step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else 5 if function is drop else 1
        failures = 0
        for starving in every_allocation(step=step):
            try:
                async with anyio.create_task_group() as tasks:
                    world = World(tasks, starving, kind)
                    await function(world)
                    await world.check()
                    tasks.cancel_scope.cancel()
            except BaseException as error:
                raise AssertionError(f"{name}, {starving}: {error!r}") from error
            failures += starving.failed
        print(name, starving.number, "points,", failures, "failures", flush=True)


def run_starved() -> None:
    prepare()
    anyio.run(starved, backend=BACKEND)


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_runs_out_of_memory_strands_nobody(backend: str, part: int) -> None:
    """F44: MemoryError or success; whoever waits and need not goes on by the next call of the queue or the tracker."""
    # An event of trio that finds no memory to tell its task never does, and ends all of trio where the loop sets it.
    left_out = (get, put, go_on_with_get, be_cancelled, be_woken_by_a_loop) if backend == "trio" else ()
    cases = [name for name, (_, each) in CASES.items() if each not in left_out]
    run_starving(run_starved, CASE=";".join(cases[part::2]), BACKEND=backend)
