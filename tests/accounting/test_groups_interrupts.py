"""Signals, other threads and failing memory at each point of a block and of a step at which they can come."""

import contextvars
import sys
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from memquota.accounting import Group, _steps, allocations
from tests.accounting.group_world import StepClock, inside, seconds, standing_clock
from tests.concurrency.interrupts import every_interrupt
from tests.queues.points import ActAt
from tests.support.watchdog import run_isolated

# Where it is interrupted before that.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")


@pytest.fixture
def clock() -> Iterator[StepClock]:
    with standing_clock() as standing:
        yield standing


@types.coroutine
def pause() -> Generator[None, None, None]:
    """One suspension."""
    yield


class World:
    """Two groups, and what may happen in them: half of it in the one that is inside."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self.outer, self.inner = Group("outer"), Group("inner")
        with self.outer, self.inner:
            pass  # nothing is made for the first time afterwards

    def blocks(self) -> None:
        """Two with blocks."""
        with self.outer:
            self.clock.compute(1)
            with self.inner:
                self.clock.compute(2)
            self.clock.compute(1)

    def steps(self) -> None:
        """A coroutine in a coroutine."""
        self.drive(self.outer.run(self.work()))

    def closed(self) -> None:
        """One that is closed while it waits."""
        coroutine = self.outer.run(self.work())
        try:
            coroutine.send(None)
        finally:
            coroutine.close()

    def thrown(self) -> None:
        """One that is cancelled."""
        coroutine = self.outer.run(self.work())
        try:
            coroutine.send(None)
            coroutine.throw(ValueError())
        except ValueError:
            pass

    async def work(self) -> None:
        """Half of its time is that of the other group, with a suspension in each."""
        try:
            self.clock.compute(1)
            await pause()
        finally:
            self.clock.compute(1)
            await self.inner.run(self.part())

    async def part(self) -> None:
        """The other half."""
        with self.inner:
            self.clock.compute(2)

    def drive(self, coroutine: Any) -> None:
        """To its end."""
        try:
            while True:
                coroutine.send(None)
        except StopIteration:
            pass


DEEDS: list[Callable[[World], None]] = [World.blocks, World.steps, World.closed, World.thrown]


# A group of an earlier test may be collected here, and be where it is interrupted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("deed", DEEDS)
def test_an_interrupt_at_any_point_leaves_nothing_entered(clock: StepClock, deed: Callable[[World], None]) -> None:
    """F42"""
    world = World(clock)
    left_open = []
    points = 0
    for interrupt in every_interrupt(package="memquota"):
        with interrupt:
            contextvars.copy_context().run(deed, world)
        points += 1
        if inside():
            left_open.append(interrupt.where.partition(":")[0])
            _steps.this_thread().top = None

    assert points > 20
    # The outermost block alone, and before the first statement of its `__exit__`: nobody is left who could see.
    assert set(left_open) <= {"Group.__exit__", "this_thread"}
    assert len(left_open) <= 3
    assert seconds(world.outer) + seconds(world.inner) <= 4 * points


@pytest.mark.parametrize("deed", [World.blocks, World.steps])
def test_an_interrupt_at_any_point_leaves_the_context_as_it_was(
    clock: StepClock, deed: Callable[[World], None]
) -> None:
    """F42"""  # the other two may leave a coroutine behind that waits, as without a group
    world = World(clock)
    left = []
    for interrupt in every_interrupt(package="memquota"):
        with interrupt:
            deed(world)
        if _steps.current.get() is not None:
            left.append(interrupt.where.partition(":")[0])
            _steps.current.set(None)
        _steps.this_thread().top = None

    assert set(left) <= {"Group.__exit__", "this_thread"}


@pytest.mark.parametrize("deed", [World.blocks, World.steps, World.thrown])
def test_a_signal_handler_at_any_point_gets_its_own_time_and_no_more(
    clock: StepClock, deed: Callable[[World], None]
) -> None:
    """F43: it enters a group of its own, and reads the statistics."""
    number = 0
    while True:
        world, handlers = World(clock), Group("handler")
        with handlers:
            pass

        def handle(world: World = world, handlers: Group = handlers) -> None:
            with handlers:
                clock.compute(1000)
                world.outer.statistics()

        act = ActAt(number, handle, elsewhere=False)
        with act:
            deed(world)
        if not act.fired:
            break
        used = (seconds(world.outer), seconds(world.inner), seconds(handlers))
        assert used == (2, 2, 1000), act.where
        assert inside() == []
        number += 1

    assert number > 20


def test_a_signal_handler_may_be_the_first_to_enter_the_group(clock: StepClock) -> None:
    """F43"""
    number = 0
    while True:
        group = Group("a")

        def handle(group: Group = group) -> None:
            with group:
                clock.compute(1000)

        act = ActAt(number, handle, elsewhere=False)
        with act:
            with group:
                clock.compute(1)
            read = seconds(group)
        if not act.fired:
            break
        assert seconds(group) == 1001, act.where
        assert read in (1, 1001), act.where
        number += 1

    assert number > 20


@pytest.mark.parametrize("deed", [World.blocks, World.steps])
def test_who_reads_from_another_thread_at_any_point_never_reads_less_than_before(
    clock: StepClock, deed: Callable[[World], None]
) -> None:
    number = 0
    while True:
        world = World(clock)
        read: list[tuple[float, float]] = []

        def look(world: World = world, read: list[tuple[float, float]] = read) -> None:
            read.append((seconds(world.outer), seconds(world.inner)))

        act = ActAt(number, look, elsewhere=True)
        with act:
            deed(world)
        if not act.fired:
            break
        outer, inner = read[0]
        assert outer <= 2, act.where
        assert inner <= 2, act.where
        assert (outer == 2) >= (inner == 2) or outer == 1, act.where
        number += 1

    assert number > 20


def test_an_interrupt_while_the_allocation_tracker_is_told_leaves_nothing_entered(
    clock: StepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42"""
    world = World(clock)

    def interrupted(number: int) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(allocations, "enter", interrupted)
    for deed in DEEDS:
        with pytest.raises(KeyboardInterrupt):
            deed(world)
        assert inside() == []
        assert _steps.current.get() is None


# --- memory that runs out ---------------------------------------------------------------------------------------------


def out_of_memory() -> None:
    """In a process of its own: each allocation of a block, and of a step, fails in turn."""
    from _testcapi import remove_mem_hooks, set_nomemory  # type: ignore[import-not-found]

    group, other = Group("a"), Group("b")

    def blocks() -> None:
        with group, other:
            pass

    async def work() -> None:
        with other:
            await pause()

    def steps() -> None:
        coroutine = group.run(work())
        try:
            while True:
                coroutine.send(None)
        except StopIteration:
            pass

    for deed in (blocks, steps):
        failures = 0
        for number in range(1, 400):
            failed = False
            set_nomemory(number, number + 1)
            try:
                deed()
            except MemoryError:
                failed = True
            finally:
                remove_mem_hooks()
            failures += failed
            assert inside() == [], (deed, number)
            _steps.current.set(None)  # without memory the context cannot be changed back either
            with group:
                assert inside() == ["a"]
        assert failures > 5
    assert group.statistics().calls > 800


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="makes allocations of CPython fail")
def test_without_memory_nothing_stays_entered() -> None:
    """F44"""
    run_isolated(out_of_memory)
