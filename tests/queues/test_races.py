"""Reclaim by another thread before and after each step of put, get, close and cancel."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from memquota.queues import AsyncQueue
from memquota.reclaimers import _loop
from tests.queues.points import ActAt, at_every_point
from tests.queues.worlds import KINDS, World, settled

MODES = ("collapse", "drop_oldest")

#: What happens elsewhere meanwhile.
ACTIONS: dict[str, Callable[[World], object]] = {
    "reclaim all": lambda world: world.tracker.reclaim(0),
    "reclaim some": lambda world: world.tracker.reclaim(1500),
    "close": lambda world: world.account.close(),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


@pytest.fixture(params=ACTIONS)
def action(request: pytest.FixtureRequest) -> Callable[[World], object]:
    return ACTIONS[request.param]


@pytest.fixture(params=[False, True], ids=["credit", "strict"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def rounds_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that stops after 5 ms is another story, and tracing is slow."""
    monkeypatch.setattr(_loop, "_SLICE", float("inf"))


def race(make: Callable[[], World], step: Callable[[World], object], action: Callable[[World], object]) -> None:
    """Let another thread act at each point of a step of the owner."""
    worlds: list[World] = []
    points = 0
    for act in at_every_point(lambda: action(worlds[-1]), elsewhere=True):
        worlds.append(make())
        with act:
            worlds[-1].attempt(lambda: step(worlds[-1]))
        checked(worlds[-1], act)
        points += act.fired
    assert points


def checked(world: World, act: ActAt, *, given_up: bool = False) -> None:
    try:
        world.check(given_up=given_up)
    except Exception as error:
        raise AssertionError(f"at {act.where or 'no point'}: {type(error).__name__}: {error}") from error


def test_against_put(kind: str, mode: str, action: Callable[[World], object], strict: bool) -> None:
    race(lambda: World(kind, mode, strict=strict), World.put, action)


def test_against_get(kind: str, mode: str, action: Callable[[World], object], strict: bool) -> None:
    race(lambda: World(kind, mode, strict=strict), World.get, action)


def test_against_the_last_get(kind: str, mode: str, action: Callable[[World], object]) -> None:
    race(lambda: World(kind, mode, items=1), World.get, action)


def test_against_a_put_into_a_full_queue(kind: str, mode: str, action: Callable[[World], object]) -> None:
    race(lambda: World(kind, mode, items=2, maxsize=2), World.put, action)


def test_against_the_end(kind: str, mode: str, action: Callable[[World], object]) -> None:
    worlds: list[World] = []
    for act in at_every_point(lambda: action(worlds[-1]), elsewhere=True):
        worlds.append(World(kind, mode))
        with act:
            worlds[-1].end()
        checked(worlds[-1], act, given_up=True)


# --- tasks that wait --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["AsyncQueue", "stream"])
def task_kind(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


#: Every so many points of what tasks do together: most are passed again and again, by one task after another.
_STEP = 29


async def race_tasks(
    make: Callable[[], World], scenario: Callable[[World], object], action: Callable[[World], object], step: int = _STEP
) -> None:
    worlds: list[World] = []
    points = 0
    for act in at_every_point(lambda: action(worlds[-1]), elsewhere=True, step=step):
        worlds.append(make())
        result = scenario(worlds[-1])
        with anyio.fail_after(30):
            with act:
                await result  # type: ignore[misc]
        checked(worlds[-1], act)
        points += act.fired
    assert points


async def test_against_a_get_that_need_not_wait(task_kind: str, action: Callable[[World], object]) -> None:
    async def scenario(world: World) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.get_waiting)
            await settled()
            tasks.cancel_scope.cancel()  # the item may have been dropped

    await race_tasks(lambda: World(task_kind, "drop_oldest", items=1), scenario, action, step=1)


async def test_against_a_get_that_waits(task_kind: str, mode: str, action: Callable[[World], object]) -> None:
    async def scenario(world: World) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.get_waiting)
            tasks.start_soon(world.get_waiting)
            await settled()
            for _ in range(2):
                world.attempt(world.put)
            await settled()
            tasks.cancel_scope.cancel()  # an item may have been dropped

    await race_tasks(lambda: World(task_kind, mode, items=0), scenario, action)


async def test_against_a_put_that_waits(task_kind: str, mode: str, action: Callable[[World], object]) -> None:
    async def scenario(world: World) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.put_waiting)
            tasks.start_soon(world.put_waiting)
            await settled()
            world.attempt(world.get)
            await settled()
            world.attempt(world.get)

    await race_tasks(lambda: World(task_kind, mode, items=2, maxsize=2), scenario, action)


async def test_against_a_cancelled_get(task_kind: str, mode: str, action: Callable[[World], object]) -> None:
    async def scenario(world: World) -> None:
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def doomed() -> None:
                with scope:
                    await world.get_waiting()

            tasks.start_soon(doomed)
            tasks.start_soon(world.get_waiting)
            await settled()
            world.attempt(world.put)
            scope.cancel()
            await settled()
            tasks.cancel_scope.cancel()

    await race_tasks(lambda: World(task_kind, mode, items=0), scenario, action)


async def test_against_a_cancelled_put(task_kind: str, mode: str, action: Callable[[World], object]) -> None:
    async def scenario(world: World) -> None:
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def doomed() -> None:
                with scope:
                    await world.put_waiting()

            tasks.start_soon(doomed)
            tasks.start_soon(world.put_waiting)
            await settled()
            world.attempt(world.get)
            scope.cancel()
            await settled()
            tasks.cancel_scope.cancel()

    await race_tasks(lambda: World(task_kind, mode, items=1, maxsize=1), scenario, action)


@pytest.mark.soak
@pytest.mark.parametrize(
    "scenario",
    [
        test_against_a_get_that_waits,
        test_against_a_put_that_waits,
        test_against_a_cancelled_get,
        test_against_a_cancelled_put,
    ],
)
async def test_against_tasks_at_every_point(
    scenario: Callable[..., Awaitable[None]],
    task_kind: str,
    mode: str,
    action: Callable[[World], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same, at each point."""
    monkeypatch.setattr(race_tasks, "__defaults__", (1,))
    await scenario(task_kind, mode, action)


# --- an item is never inside a queue that is over ---------------------------------------------------------------------


def test_nothing_goes_into_a_queue_that_is_over_by_credit_that_was_out() -> None:
    """The end takes the credit away in the very moment in which a put uses it."""
    world = World("AsyncQueue", "collapse", items=2)
    queue: AsyncQueue[int] = world.queue
    part = world.buffer._part
    credit = part._credit
    world.account.close()

    part._credit = credit  # as a put does that had read it before

    world.attempt(world.put)
    world.attempt(world.put)
    assert queue.qsize() == 0
