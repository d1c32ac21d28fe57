"""F44: memory runs out at any allocation of any step of a task at a gate, or of whoever wakes it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.abc import TaskGroup

from memquota import AccountClosed, AsyncGate, Permit, Tracker
from memquota._core.waiting_line import check_line
from memquota.testing import assert_books_balance
from tests.concurrency.starving import Starving, every_allocation, prepare, run_starving, says_so
from tests.concurrency.starving_tasks import Driven, bells_that_find_no_memory, settled
from tests.gates.calls import BACKEND, CAPACITY, KB, SLOTS


class Guest:
    """A task that goes in and stays."""

    def __init__(self, gate: AsyncGate, weight: int | None) -> None:
        self.gate = gate
        self.weight = weight
        self.scope = anyio.CancelScope()
        self.permit: Permit | None = None
        self.done = False

    async def run(self, at: int = -1, starving: Starving | None = None) -> None:
        """Go in, without memory in one step."""
        try:
            with self.scope:
                await (self._enter() if starving is None else Driven(self._enter(), at, starving))
        except AccountClosed:
            pass
        except (MemoryError, SystemError) as error:
            if not says_so(error):
                raise
        finally:
            self.done = True

    async def _enter(self) -> None:
        self.permit = await self.gate.acquire(self.weight).__aenter__()


class World:
    """A gate with two inside, of 30 and of 50 kB, and tasks in the line where they are asked for."""

    def __init__(self, tasks: TaskGroup, starving: Starving) -> None:
        self.tasks = tasks
        self.starving = starving
        self.tracker = Tracker(10_000 * KB)
        self.account = self.tracker.new_account("mine")
        self.gate = AsyncGate(self.tracker, capacity=CAPACITY, max_concurrent=SLOTS, account=self.account)
        self.permits: list[Permit] = [self.gate.acquire_nowait(30 * KB), self.gate.acquire_nowait(50 * KB)]
        self.guests: list[Guest] = []

    async def enters(self, weight: int | None, at: int = -1) -> Guest:
        """Somebody goes in, or waits. Without memory in its step of that number."""
        guest = Guest(self.gate, weight)
        self.guests.append(guest)
        self.tasks.start_soon(guest.run, at, None if at < 0 else self.starving)
        await settled()
        return guest

    def inside(self) -> list[Permit]:
        held = self.permits + [guest.permit for guest in self.guests if guest.permit is not None]
        return [permit for permit in held if not permit.released]

    async def check(self) -> None:
        """After another move of the line with memory: who is inside is counted, nobody waits in vain."""
        await settled()
        gc.collect()
        self.tracker.statistics()
        self.gate.statistics()
        await settled()
        gc.collect()
        self.gate.statistics()
        admission = self.gate._admission
        line = admission.line
        assert len(line) == len(admission.guests) == sum(not guest.done for guest in self.guests), "stranded"
        first = line.first
        if first is not None:
            assert not self.account.closed
            assert line.inside >= SLOTS or line.held + first.weight > CAPACITY, "stranded"
        first = None
        inside = self.inside()
        with admission.lock:
            admission._take_back_spare()
        check_line(line, [permit.weight for permit in inside])
        assert self.account.closed or self.account.used == sum(permit.booked for permit in inside)
        assert_books_balance(self.tracker)
        for _ in range(5):
            for permit in self.inside():
                permit.release()
            await settled()
        assert all(guest.done for guest in self.guests)
        self.permits.clear()
        self.guests.clear()
        inside.clear()
        gc.collect()
        statistics = self.gate.statistics()
        assert (statistics.inside, statistics.held, statistics.waiting) == (0, 0, 0)
        assert (line.promised, line.reserved, self.account.used) == (0, 0, 0)


CASES: dict[str, Callable[[World], Awaitable[object]]] = {}


def case(function: Callable[[World], Awaitable[object]]) -> Callable[[World], Awaitable[object]]:
    CASES[function.__name__] = function
    return function


@case
async def slot(world: World) -> None:
    await world.enters(None, 0)


@case
async def weight(world: World) -> None:
    await world.enters(20 * KB, 0)


@case
async def begin_to_wait(world: World) -> None:
    await world.enters(40 * KB)
    await world.enters(60 * KB, 0)
    for permit in world.permits:
        permit.release()


@case
async def go_on_after_waiting(world: World) -> None:
    await world.enters(40 * KB)
    await world.enters(60 * KB, 1)
    for permit in world.permits:
        permit.release()


@case
async def be_cancelled(world: World) -> None:
    guest = await world.enters(40 * KB, 1)
    await world.enters(None)
    await world.enters(20 * KB)
    guest.scope.cancel()


@case
async def release(world: World) -> None:
    for weight in (40 * KB, None, 20 * KB):
        await world.enters(weight)
    with world.starving:
        world.permits[1].release()


@case
async def release_both(world: World) -> None:
    for weight in (40 * KB, None):
        await world.enters(weight)
    with world.starving:
        world.permits[0].release()
        world.permits[1].release()


@case
async def release_in_another_thread(world: World) -> None:
    for weight in (40 * KB, None):
        await world.enters(weight)
    now, done = threading.Lock(), threading.Lock()
    now.acquire()
    done.acquire()

    def work() -> None:
        now.acquire()
        with world.starving:
            world.permits[1].release()
        done.release()

    thread = threading.Thread(target=work)
    thread.start()
    now.release()
    done.acquire()
    thread.join()


@case
async def be_woken_by_a_loop(world: World) -> None:
    await world.enters(40 * KB)
    with bells_that_find_no_memory(world.starving):
        thread = threading.Thread(target=world.permits[1].release)
        thread.start()
        thread.join()
        await settled()


@case
async def close(world: World) -> None:
    for weight in (40 * KB, None):
        await world.enters(weight)
    with world.starving:
        world.account.close()


@case
async def collect(world: World) -> None:
    await world.enters(40 * KB)
    with world.starving:
        del world.permits[0]


async def starved() -> None:
    for name, function in CASES.items():
        if function is be_woken_by_a_loop and BACKEND == "trio":
            continue  # a callback that fails there ends all of trio, as an error of its own
        failures = 0
        for starving in every_allocation():
            try:
                async with anyio.create_task_group() as tasks:
                    world = World(tasks, starving)
                    await function(world)
                    await world.check()
                    tasks.cancel_scope.cancel()
            except BaseException as error:
                raise AssertionError(f"{name}, {starving}: {error!r}") from error
            failures += starving.failed
        assert failures or function is collect, name
        print(name, starving.number, "points,", failures, "failures")


def run_starved() -> None:
    prepare()
    anyio.run(starved, backend=BACKEND)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_runs_out_of_memory_strands_nobody(backend: str) -> None:
    """F44: MemoryError or success; whoever may go in is let in by the next move, also where its wake-up was lost."""
    run_starving(run_starved, BACKEND=backend)
