"""A program of three components that take turns, each with a clock of its own: groups agree with them."""

import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from memquota.accounting import Group, GroupStatistics
from tests.accounting.group_world import forget_thread

pytestmark = pytest.mark.usefixtures("untraced")

#: How far a group may be off, of what its component burnt by its own clock.
OFF = 0.05


class Component:
    """Burns processor time, and adds up by itself how much."""

    def __init__(self, name: str, each: float) -> None:
        self.group = Group(name)
        self.each = each
        self.burnt = 0.0
        self._lock = threading.Lock()

    def burn(self) -> None:
        """Long enough that what awaits, queues and loops take in between does not matter."""
        begun = time.thread_time()
        while (spent := time.thread_time() - begun) < self.each:
            sum(range(100))
        with self._lock:
            self.burnt += spent


@pytest.fixture
def components() -> list[Component]:
    forget_thread()
    return [Component("reader", 0.004), Component("parser", 0.012), Component("writer", 0.008)]


def check(components: list[Component], total: float) -> None:
    """Each got what it burnt, and all together no more than there was."""
    used = [component.group.statistics().cpu_seconds or 0.0 for component in components]
    burnt = [component.burnt for component in components]
    for mine, its in zip(used, burnt, strict=True):
        assert mine == pytest.approx(its, rel=OFF)
        assert mine / sum(used) == pytest.approx(its / sum(burnt), rel=OFF)
    assert sum(used) <= total


async def test_interleaved_coroutines_each_get_what_they_burn(components: list[Component]) -> None:
    async def work(component: Component) -> None:
        for number in range(12):
            component.burn()
            await anyio.sleep(0.0005 if number % 4 == 0 else 0)

    begun = time.thread_time()
    async with anyio.create_task_group() as tasks:
        for component in components:
            for _ in range(2):
                tasks.start_soon(component.group.run, work, component)

    check(components, time.thread_time() - begun)


async def test_tasks_generators_and_blocks_of_one_pipeline_each_get_what_they_burn(components: list[Component]) -> None:
    reader, parser, writer = components

    @reader.group.wrap
    async def read() -> AsyncGenerator[int, None]:
        for number in range(24):
            reader.burn()
            await anyio.lowlevel.checkpoint()
            yield number

    async def parse(source: AsyncIterator[int], send: anyio.abc.ObjectSendStream[int]) -> None:
        async with send:
            async for number in source:
                parser.burn()
                await send.send(number)

    async def write(receive: anyio.abc.ObjectReceiveStream[int]) -> None:
        async with receive:
            async for _ in receive:
                with writer.group:
                    writer.burn()

    async def pipeline() -> None:  # the group of which both tasks inherit
        send, receive = anyio.create_memory_object_stream[int](3)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parse, read(), send)
            tasks.start_soon(write, receive)

    begun = time.thread_time()
    await parser.group.run(pipeline())

    check(components, time.thread_time() - begun)


def test_threads_that_take_turns_each_get_what_they_burn(components: list[Component]) -> None:
    def by_block(component: Component) -> None:
        with component.group:
            for _ in range(4):
                component.burn()
                time.sleep(0.0005)

    begun = time.process_time()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for component in components:
                pool.submit(by_block, component)
                component.group.bind(pool).submit(component.burn)

    check(components, time.process_time() - begun)


async def test_awaiting_costs_nothing() -> None:
    forget_thread()
    group = Group("waits")

    async def waits() -> None:
        for _ in range(5):
            await anyio.sleep(0.02)

    async def burns() -> None:
        while not done:
            sum(range(1000))
            await anyio.lowlevel.checkpoint()

    done = False
    before = time.thread_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(burns)
        await group.run(waits())
        done = True
    burnt = time.thread_time() - before

    used = group.statistics()
    assert used.calls == 1
    assert GroupStatistics().cpu_seconds == 0.0
    assert (used.cpu_seconds or 0.0) < burnt / 20
