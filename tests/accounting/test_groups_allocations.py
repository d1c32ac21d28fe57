"""Groups tell the allocation tracker whose turn it is, and show what it knows."""

import asyncio
from collections.abc import Iterator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from memquota import UsageError
from memquota.accounting import Group, allocations
from tests.accounting.group_world import forget_thread
from tests.support.watchdog import run_isolated

pytestmark = pytest.mark.skipif(not allocations.available(), reason=str(allocations.why_not()))

#: Far more than anything else takes here, in bytes.
MUCH = 10_000_000
#: Less than anything that is allocated on purpose, and far more than what frames and the like take.
LITTLE = 1_000_000


@pytest.fixture
def counting() -> Iterator[None]:
    forget_thread()
    with allocations.tracking():
        yield


def live(group: Group) -> int:
    """Bytes that live, to the nearest ten million."""
    found = group.statistics().live_bytes
    assert found is not None
    return round(found / MUCH)


@pytest.mark.usefixtures("counting")
def test_blocks_allocate_for_the_innermost_group() -> None:
    outer, inner = Group("outer"), Group("inner")

    with outer:
        one = bytearray(MUCH)
        with inner:
            two = bytearray(2 * MUCH)
        three = bytearray(4 * MUCH)
    nobodys = bytearray(8 * MUCH)

    assert (live(outer), live(inner)) == (5, 2)
    with outer:
        del two
    assert (live(outer), live(inner)) == (5, 0)
    del one, three, nobodys
    used = outer.statistics()
    assert used.live_bytes is not None
    assert used.live_bytes < LITTLE
    assert used.allocated_bytes is not None
    assert used.freed_bytes is not None
    assert used.live_objects is not None
    assert used.allocated_bytes - used.freed_bytes == used.live_bytes
    assert used.allocated_bytes >= 5 * MUCH


@pytest.mark.usefixtures("counting")
async def test_coroutines_allocate_for_their_group_and_not_while_they_wait() -> None:
    group, other = Group("a"), Group("b")
    kept = []

    async def work(size: int) -> None:
        kept.append(bytearray(size))
        await checkpoint()
        with other:
            kept.append(bytearray(MUCH))
            await checkpoint()
            kept.append(bytearray(MUCH))
        await checkpoint()
        kept.append(bytearray(size))

    async def nobodys() -> None:
        for _ in range(4):
            kept.append(bytearray(MUCH))
            await checkpoint()

    async def parent() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, 2 * MUCH)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(nobodys)
        tasks.start_soon(group.run, work, MUCH)
        tasks.start_soon(group.run, parent)
        tasks.start_soon(nobodys)

    assert (live(group), live(other)) == (6, 4)
    kept.clear()
    assert (live(group), live(other)) == (0, 0)


@pytest.mark.usefixtures("counting")
def test_a_block_that_raises_allocates_for_nobody_afterwards() -> None:
    group = Group("a")
    try:
        with group:
            raise ZeroDivisionError
    except ZeroDivisionError:
        kept = bytearray(MUCH)

    assert live(group) == 0
    del kept


@pytest.mark.usefixtures("counting")
async def test_asyncio_a_block_that_is_held_across_an_await_where_it_cannot_be_soon_allocates_nothing(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        return
    group = Group("a")
    kept = []

    async def held() -> None:
        with group:
            for _ in range(4):
                await asyncio.sleep(0)

    async def others() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        kept.append(bytearray(MUCH))

    other = asyncio.ensure_future(others())
    with pytest.raises(UsageError, match="held across an await"):
        await held()
    await other

    assert live(group) == 0


def test_while_nothing_was_ever_counted_nothing_is_available() -> None:
    run_isolated("""
        from memquota.accounting import Group, GroupStatistics, allocations

        group = Group("a")
        with group:
            kept = bytearray(10**6)
        used = group.statistics()
        assert (used.live_bytes, used.live_objects, used.allocated_bytes, used.freed_bytes) == (None,) * 4
        with group, allocations.tracking():
            with group:
                kept = bytearray(10**6)
            with Group("other"):
                pass
            assert Group("idle").statistics().live_bytes == 0
            also = bytearray(10**6)
        assert 10**6 <= group.statistics().live_bytes < 3 * 10**6
        number = group.allocation_id
        del group
        try:
            allocations.statistics(number)
        except ValueError:
            pass
        else:
            raise AssertionError("its number was not given back")
    """)
