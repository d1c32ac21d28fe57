"""Every item that was put is exactly one of got, dropped and reported, inside; and the books return to zero."""

import os
import random
import time
from collections import deque
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import AsyncQueue, Queue, Tracker, open_stream
from memquota.queues import ENTRY_COST
from memquota.testing import FakeClock, assert_books_balance
from tests.queues import conservation
from tests.queues.worlds import NO_ROOM, NOTHING

KINDS = ("Queue", "AsyncQueue", "stream")
TASK_KINDS = ("AsyncQueue", "stream")
MODES = ("collapse", "drop_oldest")
SEEDS = st.integers(0, 2**32 - 1)

#: Operations of a soak on each event loop, and of one program.
SOAK = 1_000_000
PROGRAM = 100


# --- step by step against a model -------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from((0, 1, 100, 3000))),
        st.tuples(st.just("get"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 3)),
        st.tuples(st.just("reclaim"), st.integers(0, 20_000)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("kind", KINDS)
@given(
    steps=STEPS,
    strict=st.booleans(),
    policy=st.sampled_from(conservation.POLICIES),
    maxsize=st.sampled_from((0, 3)),
    max_bytes=st.sampled_from((None, 8000)),
)
def test_what_is_inside_is_what_a_plain_deque_has(
    kind: str, steps: list[tuple[str, int]], strict: bool, policy: Any, maxsize: int, max_bytes: int | None
) -> None:
    clock = FakeClock(10.0)
    tracker = Tracker(20_000, clock=clock, strict=strict, policy=policy)
    model: deque[int] = deque()
    dropped: list[int] = []

    def on_drop(count: int, size: int) -> None:
        gone = [model.popleft() for _ in range(count)]
        assert size == sum(gone)
        dropped.extend(gone)

    options: dict[str, Any] = {"max_bytes": max_bytes, "on_reclaim": "drop_oldest", "on_drop": on_drop}
    account = tracker.new_account("queue")
    ends: tuple[Any, ...] = ()
    if kind == "stream":
        ends = send, receive = open_stream(account, maxsize or float("inf"), **options)
        put, get, queue = send.send_nowait, receive.receive_nowait, send
    else:
        made: Any = Queue(account, maxsize, **options) if kind == "Queue" else AsyncQueue(account, maxsize, **options)
        put, get, queue = made.put_nowait, made.get_nowait, made

    for step, number in steps:
        if step == "put":
            cost = number + ENTRY_COST
            fits = (not maxsize or len(model) < maxsize) and (max_bytes is None or sum(model) + cost <= max_bytes)
            if fits:
                model.append(cost)  # first, as it may be dropped in its own round
                put(bytes(number))
            else:
                with pytest.raises(NO_ROOM):
                    put(bytes(number))
        elif step == "get":
            if model:
                assert len(get()) + ENTRY_COST == model.popleft()
            else:
                with pytest.raises(NOTHING):
                    get()
        elif step == "wait":
            clock.advance(number)
        else:
            tracker.reclaim(number)
        statistics = queue.statistics()
        assert (statistics.items, statistics.bytes) == (len(model), sum(model))
        assert (statistics.dropped_items, statistics.dropped_bytes) == (len(dropped), sum(dropped))
        assert_books_balance(tracker, sum(model))

    while model:
        assert len(get()) + ENTRY_COST == model.popleft()
    assert_books_balance(tracker, 0)
    for end in ends:
        end.close()


# --- tasks that wait and are cancelled --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TASK_KINDS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(seed=SEEDS)
def test_tasks_that_are_cancelled_lose_nothing(backend: str, kind: str, mode: str, seed: int) -> None:
    anyio.run(conservation.one_queue, random.Random(seed), kind, mode, PROGRAM, backend=backend)


# --- threads and loops on one tracker ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_threads_and_loops_on_one_tracker_lose_nothing(mode: str) -> None:
    with conservation.impatient():
        for _ in range(3):
            seed = random.randrange(2**32)
            print(f"seed {seed}")
            conservation.threads(seed, mode, 300)


# --- for long ---------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_million_operations_lose_nothing(backend: str) -> None:
    """MEMQUOTA_SEED repeats a run, MEMQUOTA_STEPS makes it shorter."""
    seed, wanted = _soak()
    began, number = time.monotonic(), 0

    async def run() -> None:
        nonlocal number
        while number * PROGRAM < wanted:
            rng = random.Random(seed + number)
            try:
                await conservation.one_queue(rng, rng.choice(TASK_KINDS), rng.choice(MODES), PROGRAM)
            except BaseException as error:
                error.add_note(f"seed {seed + number}, {backend}")
                raise
            number += 1

    anyio.run(run, backend=backend)
    seconds = time.monotonic() - began
    print(f"queues on {backend}: {number * PROGRAM:,} operations in {seconds:.0f} s, seed {seed}: nothing lost")


@pytest.mark.soak
def test_a_million_operations_of_threads_and_loops_lose_nothing() -> None:
    """The same."""
    seed, wanted = _soak()
    began, number = time.monotonic(), 0
    with conservation.impatient():
        while number * 4 * 2000 < wanted:
            try:
                conservation.threads(seed + number, MODES[number % 4 == 0], 2000)
            except BaseException as error:
                error.add_note(f"seed {seed + number}")
                raise
            number += 1
    seconds = time.monotonic() - began
    print(f"queues of threads: {number * 4 * 2000:,} operations in {seconds:.0f} s, seed {seed}: nothing lost")


def _soak() -> tuple[int, int]:
    seed = int(os.environ.get("MEMQUOTA_SEED", random.randrange(10**9)))
    return seed, int(os.environ.get("MEMQUOTA_STEPS", SOAK))
