"""Live bytes by group against a model from outside, after every step of random programs."""

from __future__ import annotations

import ctypes
import lzma
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from memquota.accounting import allocations
from tests.accounting.allocation_programs import (
    CHANGES,
    KINDS,
    LARGEST,
    MAKE,
    Program,
    enter,
    needs_hooks,
    program,
    undisturbed,
)
from tests.support.watchdog import run_isolated

pytestmark = needs_hooks

GROUPS, PLACES, THREADS = 3, 6, 3

#: What is done, where, with which size, in whose name (0: nobody's), and by which thread or task.
Step = tuple[str, int, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, *CHANGES, "drop"]),
        st.integers(0, PLACES - 1),
        st.integers(2, LARGEST),
        st.integers(0, GROUPS),
        st.integers(0, THREADS - 1),
    ),
    max_size=60,
)


def do(programme: Program, step: Step) -> None:
    what, place, size, name, _ = step
    group = programme.groups[name - 1] if name else 0
    if what in MAKE:
        programme.make(place, what, size, group)
    elif what == "drop":
        programme.drop(place, group)
    else:
        programme.change(place, what, size, group)


def do_untraced(programme: Program, step: Step) -> None:
    sys.settrace(None)
    do(programme, step)


@settings(max_examples=300)
@given(steps)
def test_live_bytes_of_groups_are_those_of_what_is_known_alive_in_threads(steps: list[Step]) -> None:
    """Threads take turns; what one makes, the next one grows or frees."""
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(THREADS)]
        made = stack.enter_context(program(GROUPS, PLACES))
        for step in steps:
            threads[step[-1]].submit(do_untraced, made, step).result()
            made.check()


@pytest.mark.parametrize("seed", range(5))
async def test_live_bytes_of_groups_are_those_of_what_is_known_alive_in_tasks(seed: int) -> None:
    chance = random.Random(seed)

    async def work(made: Program) -> None:
        for _ in range(200):
            do(made, random_step(chance))
            made.check()
            await checkpoint()

    with program(GROUPS, PLACES) as made:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(work, made)


def random_step(chance: random.Random) -> Step:
    return (
        chance.choice([*KINDS, *CHANGES, "drop"]),
        chance.randrange(PLACES),
        chance.randint(2, LARGEST),
        chance.randint(0, GROUPS),
        0,
    )


def concurrent_threads(seed: int, rounds: int = 3_000, threads: int = 4) -> None:
    """All at once, each with places of its own; every now and then one passes on what it has, for others to free.

    The standard library's decompressors allocate without the GIL. They also make a list, for which there had better be
    one in the interpreter's free list.
    """
    lists: list[object] = [[] for _ in range(100)]
    del lists
    passed: SimpleQueue[Any] = SimpleQueue()
    failures: list[BaseException] = []

    def work(made: Program, number: int) -> None:
        sys.settrace(None)
        chance = random.Random(seed * 100 + number)
        try:
            for turn in range(rounds):
                do(made, random_step(chance))
                if turn % 7 == 0:
                    place = chance.randrange(PLACES)
                    passed.put(made.places[place])
                    made.places[place] = passed.get() if passed.qsize() > 20 else None
                if turn % 100 == 0:
                    before = enter(chance.choice(made.groups))
                    try:
                        decompressor = lzma.LZMADecompressor()
                        decompressor.decompress(PACKED)
                        del decompressor
                    finally:
                        enter(before)
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with undisturbed():
            groups = [allocations.register(f"group {n}") for n in range(GROUPS)]
            with allocations.tracking():
                programs = [Program(groups, [None] * PLACES) for _ in range(threads)]
                workers = [
                    threading.Thread(target=work, args=each) for each in zip(programs, range(threads), strict=True)
                ]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                if failures:
                    raise failures[0]
                rest = Program(groups, [known for made in programs for known in made.places])
                rest.places += [passed.get() for _ in range(passed.qsize())]
                rest.check()
                rest.places.clear()
                programs.clear()
                assert rest.counted() == dict.fromkeys(groups, (0, 0))
    finally:
        sys.setswitchinterval(interval)


def raw_threads(count: int = 3_000, threads: int = 4) -> None:
    """Without the interpreter's lock: what one thread allocates and resizes, the next one frees.

    The arguments of a call are a tuple, for which there had better be some in the interpreter's free lists.
    """
    process = ctypes.CDLL(None)  # which lets go of the lock in every call
    malloc, realloc, free = process.PyMem_RawMalloc, process.PyMem_RawRealloc, process.PyMem_RawFree
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    realloc.restype, realloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    free(realloc(malloc(10), 20))
    numbers = list(range(count))
    tuples: list[object] = [each for number in numbers[:100] for each in ((number,), (number, number))]
    del tuples
    sizes = [size * 7 % 3_001 for size in numbers]
    rooms: list[list[int | None]] = [[None] * count for _ in range(threads)]
    barrier = threading.Barrier(threads)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        sys.settrace(None)
        room, others = rooms[number], rooms[(number + 1) % threads]
        turns = [groups[(number + turn) % 2] for turn in numbers]
        try:
            for turn, size, group in zip(numbers, sizes, turns, strict=True):
                enter(group)
                room[turn] = malloc(size)
                room[turn] = realloc(room[turn], size + 100)
                enter(0)
            barrier.wait()
            if number == 0:
                check()
            barrier.wait()
            for turn, group in zip(numbers, turns, strict=True):
                enter(group)
                free(others[turn])
                others[turn] = None
                enter(0)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    def check() -> None:
        for remainder, group in enumerate(groups):
            expected = sum(
                sizes[turn] + 100 + sys.getsizeof(room[turn])
                for number, room in enumerate(rooms)
                for turn in numbers
                if (number + turn) % 2 == remainder
            )
            found = allocations.statistics(group)
            assert found is not None
            assert (found.live_bytes, found.live_objects) == (expected, count * threads)

    with undisturbed():
        groups = [allocations.register("even"), allocations.register("odd")]
        with allocations.tracking():
            workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if failures:
                raise failures[0]
            for group in groups:
                found = allocations.statistics(group)
                assert found is not None
                assert (found.live_bytes, found.live_objects) == (0, 0)


def test_threads_without_the_interpreters_lock_lose_nothing() -> None:
    raw_threads()


PACKED = lzma.compress(bytes(10_000))


@pytest.mark.parametrize("seed", range(3))
def test_threads_at_once_lose_nothing(seed: int) -> None:
    concurrent_threads(seed)


@pytest.mark.parametrize("allocator", ["debug", "malloc", "malloc_debug", "pymalloc_debug"])
def test_the_model_holds_over_every_allocator(allocator: str) -> None:
    run_isolated(
        """
        import random
        from tests.accounting.allocation_programs import program
        from tests.accounting.test_allocations_model import GROUPS, PLACES, concurrent_threads, do, random_step

        chance = random.Random(1)
        with program(GROUPS, PLACES) as made:
            for _ in range(2_000):
                do(made, random_step(chance))
                made.check()
        concurrent_threads(1)
        """,
        env={"PYTHONMALLOC": allocator},
    )
