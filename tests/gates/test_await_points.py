"""Cancellation at every await point of every coroutine, with something else before, at and after it."""

import itertools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from memquota import AccountClosed, AsyncGate, AsyncPermit, MemoryReclaimed, Permit, PressureLimiter, Tracker
from memquota.gates import admission
from memquota.host.readings import FixedProvider
from tests.gates.support import balanced

#: When something else happens: before the step that ends at the await point; there, before or after the cancellation;
#: when the cancellation arrives; when the coroutine has ended.
MOMENTS = ("before", "there", "there, cancelled", "arriving", "after")
Blow = str | type[BaseException]
#: What comes: a cancelled scope, one whose time is over, and what others may throw.
BLOWS: tuple[Blow, ...] = ("cancel", "timeout", KeyboardInterrupt, GeneratorExit, RuntimeError)
#: Each await point is visited so often, as who waits may be woken and wait again.
VISITS = 3


class Stepped:
    """Drives a coroutine step by step, and strikes at its `at`-th await point."""

    def __init__(self, at: int, blow: Blow, deed: Callable[[], object], moment: str) -> None:
        self.at = at
        self.blow = blow
        self.deed = deed
        self.moment = moment
        self.scope = anyio.CancelScope()
        self.wake: Callable[[], object] = lambda: None
        # How many await points it came to.
        self.points = 0
        self.began = self.ended = False
        self.result: Any = None

    def now(self, moment: str) -> None:
        if moment == self.moment and self.points == self.at:
            self.deed()

    async def run(self, awaitable: Awaitable[Any]) -> None:
        try:
            with self.scope:
                self.result = await self._drive(awaitable.__await__())
        except AccountClosed:
            pass
        except BaseException as error:
            if type(error) is not self.blow:
                raise
        finally:
            self.began = self.ended = True
        if self.points > self.at:
            self.points = self.at
            self.now("after")
            self.points += 1

    @coroutine
    def _drive(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = partial(next, steps)
        while True:
            self.now("before")
            try:
                given = resume()
            except StopIteration as stop:
                return stop.value
            struck = self.points == self.at
            self.began = True
            if struck:
                self.now("there")
                if isinstance(self.blow, type):
                    resume = partial(steps.throw, self._by_hand(given))
                    self.now("arriving")
                    self.points += 1
                    continue
                self._strike()
                self.now("there, cancelled")
            elif self.points < self.at:
                self.wake()
            try:
                answer = yield given
            except BaseException as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, answer)
            if struck:
                self.now("arriving")
            self.points += 1

    def _strike(self) -> None:
        if self.blow == "cancel":
            self.scope.cancel()
        else:
            self.scope.deadline = anyio.current_time() - 1

    def _by_hand(self, given: Any) -> BaseException:
        """What to throw, after what trio would have done before."""
        if hasattr(given, "abort_func"):
            given.abort_func(lambda: None)
        assert isinstance(self.blow, type)
        return self.blow()


class Neighbour:
    """Somebody else in the line."""

    def __init__(self, gate: AsyncGate, weight: int) -> None:
        self.gate = gate
        self.weight = weight
        self.scope = anyio.CancelScope()
        self.leave = anyio.Event()
        self.ended = False

    async def run(self) -> None:
        try:
            with self.scope:
                async with self.gate.acquire(self.weight):
                    await self.leave.wait()
        except AccountClosed:
            pass
        self.ended = True


class World:
    """Eight of ten bytes are inside; eight more wait, then the one under test with five, then another five."""

    def __init__(self, **options: Any) -> None:
        self.tracker = Tracker(1000)
        self.account = self.tracker.new_account("mine")
        self.data = self.tracker.new_account("data")
        self.data.claim(985)
        self.gate = AsyncGate(self.tracker, capacity=10, account=self.account, **options)
        self.inside = self.gate.acquire_nowait(8)
        self.ahead, self.behind = Neighbour(self.gate, 8), Neighbour(self.gate, 5)

    def do(self, deed: str) -> None:
        if deed == "release":
            self.inside.release()
        elif deed == "shrink" and not self.inside.released:
            self.inside.adjust(1)
        elif deed == "give up":
            self.ahead.scope.cancel()
        elif deed == "release and give up":
            self.inside.release()
            self.ahead.scope.cancel()
        elif deed == "widen":
            self.gate.reconfigure(capacity=30)
        elif deed == "narrow":
            self.gate.reconfigure(capacity=6)
        elif deed == "close":
            self.account.close()
        elif deed == "round":
            try:
                self.data.claim(2000)
            except MemoryReclaimed:
                pass

    def waiting(self) -> int:
        return len(self.gate._admission.line)

    def nobody_waits_in_vain(self) -> None:
        """Whoever is first does not fit."""
        line = self.gate._admission.line
        first = line.first
        if first is not None:
            assert line.capacity is not None
            full = line.inside and line.held + first.weight > line.capacity
            assert full or self.tracker.used + first.weight > 1000


DEEDS = ("nothing", "release", "shrink", "give up", "release and give up", "widen", "narrow", "close", "round")
GATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a provider": {"provider": FixedProvider(100, 10)},
    "that reclaims": {"on_full": "reclaim"},
}


async def settled(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():
            await checkpoint()


async def strike(options: dict[str, Any], enter: str, at: int, blow: Blow, deed: str, moment: str) -> bool:
    """One blow at one await point. False when there is no such point."""
    world = World(**options)
    permit = world.gate.acquire(5)
    stepped = Stepped(at, blow, partial(world.do, deed), moment)
    stepped.wake = lambda: permit.waiter is not None and permit.waiter.wake()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.ahead.run)
        await settled(lambda: world.waiting() == 1)
        tasks.start_soon(stepped.run, permit if enter == "await" else permit.__aenter__())
        await settled(lambda: stepped.began)
        if not stepped.ended:
            tasks.start_soon(world.behind.run)
        await settled(lambda: stepped.ended)
        reached = stepped.points > at
        for _ in range(5):
            await checkpoint()

        got: Permit | None = stepped.result
        if got is not None:
            assert not permit.released
        elif reached:
            assert permit.state.value in (("gone", "refused") if deed == "close" else ("gone",))
        world.nobody_waits_in_vain()
        world.inside.release()
        permit.release()
        world.ahead.leave.set()
        world.behind.leave.set()
    world.data.close()
    balanced(world.gate, collect=False)
    return reached


@pytest.mark.parametrize(
    ("kind", "enter"),
    [("plain", "await"), ("plain", "async with"), ("with a provider", "async with"), ("that reclaims", "await")],
)
async def test_a_blow_at_any_await_point_gives_the_place_up_or_comes_too_late(
    kind: str, enter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F34: with a grant, a release, a timeout or a resize before, at and after it."""
    monkeypatch.setattr(admission, "READ_EVERY", 0.0001)
    points = set()
    for at, blow, deed, moment in itertools.product(range(VISITS), BLOWS, DEEDS, MOMENTS):
        try:
            if await strike(GATES[kind], enter, at, blow, deed, moment):
                points.add(at)
        except BaseException as error:
            raise AssertionError(f"{blow} at point {at}, {deed} {moment}") from error
    assert points == set(range(VISITS))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("blow", BLOWS)
async def test_a_blow_at_the_await_point_of_a_limiter_holds_nothing(blow: Blow, moment: str) -> None:
    """Whatever comes, also when the limiter is closed before, at or after it."""
    points = []
    for at in range(VISITS):
        with PressureLimiter(FixedProvider(100, 100), shortest=0.01, longest=0.01) as limiter:
            stepped = Stepped(at, blow, limiter.close, moment)
            await stepped.run(Whole(limiter.wait()))
        points.append(stepped.points)
        with anyio.fail_after(20):
            await limiter.wait()
    assert points[0] == (0 if moment == "before" else 1)


class Whole:
    """A coroutine as something that is awaited."""

    def __init__(self, steps: Coroutine[Any, Any, Any]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._steps.__await__()


async def test_leaving_has_no_await_point() -> None:
    """So no cancellation can come between."""

    async def leave(permit: AsyncPermit) -> None:
        await permit.__aexit__(None, None, None)

    gate = AsyncGate(Tracker(1000), max_concurrent=1)
    for weight in (None, 5):
        permit = await gate.acquire(weight)
        leaving = leave(permit)
        with pytest.raises(StopIteration):
            leaving.send(None)
    balanced(gate)
