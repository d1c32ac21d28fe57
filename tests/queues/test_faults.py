"""Faults of the list that concern queues and have no better place; F9, F10: tests/contracts, F42, F43: beside this."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import logging
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from memquota import AsyncQueue, Queue, Reclaimed, ReclaimRequest, Tracker, open_stream
from memquota.queues import ENTRY_COST
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.concurrency.support import InThread, Point
from tests.concurrency.test_fork import in_child
from tests.queues.worlds import COST, KINDS, NOTHING, World
from tests.support.watchdog import run_isolated

try:
    import _testcapi as testcapi  # type: ignore[import-not-found]
except ImportError:
    testcapi = None

#: Lets allocations fail, where the interpreter can.
_testcapi: Any = testcapi

MODES = ("collapse", "drop_oldest")


# --- rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_that_dies_in_a_round_is_released_once(kind: str, mode: str) -> None:
    """F22: after the candidates were found and before it is asked."""
    world = World(kind, mode, strict=True)
    tracker, clock = world.tracker, world.clock
    worlds = [world]
    del world

    def answer(participant: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # ends of a stream that nobody closed
            worlds.clear()
            gc.collect()
        participant.items.clear()
        return Reclaimed.COLLAPSING

    oldest = ScriptedParticipant(tracker.new_account("oldest"), clock, answer=answer)
    oldest.put(10_000)
    oldest.items[0] = (0.0, 10_000)
    oldest.participation.resurvey()
    last = ScriptedParticipant(tracker.new_account("last"), clock)
    last.put(500)
    assert tracker.used == 13_500

    tracker.reclaim(600)

    assert (oldest.account.closed, last.account.closed) == (True, False)
    assert_books_balance(tracker, 500)


def test_a_put_whose_item_was_got_before_its_round_took_the_queue_has_succeeded() -> None:
    """F10: what was delivered was put."""
    clock = FakeClock(10.0)
    tracker = Tracker(3500, clock=clock, strict=True)
    account = tracker.new_account("queue")
    queue: Queue[int] = Queue(account, cost=lambda item: COST - ENTRY_COST)
    got: list[int] = []

    def answer(participant: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        got.append(InThread(queue.get).result())
        account.close()
        return Reclaimed.COLLAPSING

    oldest = ScriptedParticipant(tracker.new_account("oldest"), clock, answer=answer)
    oldest.put(3000)
    clock.advance(1)

    queue.put(7)  # passes the limit

    assert (got, account.closed, oldest.account.closed) == ([7], True, True)
    assert_books_balance(tracker, 0)


# --- finalizers -------------------------------------------------------------------------------------------------------


def _cycles_under_constant_collection() -> None:
    gc.set_threshold(1)
    logging.disable()
    tracker = Tracker(200_000)
    account = tracker.new_account("kept")
    put: Any
    get: Any
    made: Any
    send: Any = None
    receive: Any = None
    for number, kind, mode in itertools.product(range(20), KINDS, MODES):
        options: dict[str, Any] = {"on_reclaim": mode}
        if kind == "stream":
            send, receive = open_stream(account, **options)
            put, get = send.send_nowait, receive.receive_nowait
        else:
            made = (Queue if kind == "Queue" else AsyncQueue)(account, **options)
            put, get = made.put_nowait, made.get_nowait
        for size in range(8):
            put([bytes(size * 100), put, get])  # a cycle through its own content
        for _ in range(number % 8):
            get()
        if kind == "stream":
            send.close()
            if number % 2:
                receive.close()
        if not number % 5:
            tracker.reclaim(1000)
            account = tracker.new_account("next")
        put = get = made = send = receive = None
    gc.set_threshold(700)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert account.used == 0, account.used
    assert_books_balance(tracker, 0)


def test_queues_in_cycles_are_off_the_books_when_they_are_collected() -> None:
    """F23: with a collection at every allocation."""
    run_isolated(_cycles_under_constant_collection)


@pytest.mark.parametrize("closed", ["none", "send", "receive"])
def test_ends_that_are_dropped_without_close_are_closed_with_a_warning(closed: str) -> None:
    """F23: and the stream leaves the books with the last of them."""
    tracker = Tracker(100_000)
    account = tracker.new_account("kept")
    ends: dict[str, Any] = dict(zip(("send", "receive"), open_stream(account), strict=True))
    ends["send"].send_nowait(b"inside")
    if closed != "none":
        ends.pop(closed).close()

    with pytest.warns(ResourceWarning, match="unclosed <Quota") as caught:
        ends.clear()

    assert len(caught) == (2 if closed == "none" else 1)
    assert_books_balance(tracker, 0)
    assert tracker.snapshot().accounts[0].holdings == ()


PROGRAM = """
    import threading, warnings, asyncio, atexit
    from memquota import AsyncQueue, Queue, Tracker, open_stream
    warnings.simplefilter("ignore", ResourceWarning)
    tracker = Tracker("512MiB")
    account = tracker.new_account()
    queue, other = Queue(account, 3), AsyncQueue(account, on_reclaim="drop_oldest")
    send, receive = open_stream(account)
    cycle = [queue, other, send, receive]
    class Late:
        def __del__(self):
            try:
                other.put_nowait(b"late"), other.get_nowait(), queue.shutdown(immediate=True)
            except Exception as error:
                assert "MemoryQuotaError" in str(type(error).__mro__) or "ShutDown" in str(type(error)), error
    for each in (queue.put, other.put_nowait, send.send_nowait):
        each(Late()), each(cycle)
    {more}
"""

MORE = {
    "left alone": "",
    "who waits at exit": """
for call in (lambda: [queue.put(number) for number in range(5)], Queue(account).get, Queue(account).get):
    threading.Thread(target=call, daemon=True).start()
""",
    "those who work at exit": """
def work(queue=Queue(tracker.new_account(), on_reclaim="drop_oldest")):
    while True:
        queue.put(b"x" * 100), queue.put(b"x" * 5000), queue.get()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
""",
    "much to free at exit": """
for number in range(400_000):
    other.put_nowait(number)
other.shutdown(immediate=True)
""",
    "ended at exit": "atexit.register(tracker.close), atexit.register(queue.shutdown, True)",
    "a loop that ends with tasks that wait": """
async def main():
    mine = AsyncQueue(account, 1)
    tasks = [asyncio.ensure_future(call()) for call in (mine.get, mine.get, receive.receive, receive.receive)]
    await asyncio.sleep(0)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("what", MORE)
def test_a_program_ends_quietly_with_queues_in_use(what: str) -> None:
    """F24: F40: with threads that die as they put and get."""
    more = MORE[what].replace("\n", "\n    ")
    done = run_isolated(PROGRAM.replace("{more}", more), timeout=20)

    assert done.stderr == ""


# --- threads that die -------------------------------------------------------------------------------------------------


def test_a_thread_that_dies_in_the_line_gives_its_place_up() -> None:
    """F40: by an exception out of what it waits in."""
    tracker = Tracker(100_000)
    queue: Queue[int] = Queue(tracker.new_account(), 1)
    queue.put(1)
    waiting = threading.Event()

    class Dies(Exception):
        pass

    def check() -> None:
        if waiting.is_set():
            raise Dies
        waiting.set()

    def doomed() -> None:
        with queue._lock:
            queue._lines.turn(queue._putters, lambda: False, check, queue._adjust, 30)

    first = InThread(doomed)
    assert waiting.wait(30)
    second = InThread(queue.put, 2)
    while queue.statistics().waiting_to_put < 2:
        waiting.wait(0.001)
        threading.Event().wait(0.001)

    queue._wake_everybody()  # the first dies

    with pytest.raises(Dies):
        first.result()
    assert queue.get() == 1
    second.result()
    assert queue.get() == 2
    assert_books_balance(tracker, 0)


# --- loops that end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["AsyncQueue", "stream"])
def test_who_waited_in_a_loop_that_is_closed_is_in_nobodys_way(kind: str) -> None:
    """F39: no "attached to a different loop"; a new loop goes on with the same queue."""
    world = World(kind, "collapse", items=1, maxsize=1)
    dead = asyncio.new_event_loop()
    tasks = [dead.create_task(world.put_waiting()), dead.create_task(world.put_waiting())]
    dead.run_until_complete(asyncio.sleep(0))
    dead.run_until_complete(asyncio.sleep(0))
    assert world.buffer._statistics(0, 0).items == 1
    assert len(world.buffer._putters) == 2
    dead.close()

    async def goes_on() -> None:
        world.get()
        with anyio.fail_after(10):
            await world.put_waiting()
            await world.get_waiting()
            async with anyio.create_task_group() as group:
                group.start_soon(world.get_waiting)
                await world.put_waiting()

    anyio.run(goes_on)

    assert world.got == [0, 3, 4]
    assert_books_balance(world.tracker, 0)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()
    world.end()


def _loops_end_with_waiters(backend: str) -> None:
    """Several loops after each other use the same queues, and end while tasks wait to put and to get."""
    tracker = Tracker(100_000)
    account = tracker.new_account("kept")
    full, empty = AsyncQueue[bytes](account, 1), AsyncQueue[bytes](account)
    send, receive = open_stream(account, 0)
    full.put_nowait(b"inside")

    async def session(leave: str) -> None:
        async with anyio.create_task_group() as tasks:
            for waits in (full.put, send.send):
                tasks.start_soon(waits, b"too much")
            tasks.start_soon(empty.get)
            tasks.start_soon(full.join)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert (full.statistics().waiting_to_put, empty.statistics().waiting_to_get) == (1, 1)
            if leave == "cancel":
                tasks.cancel_scope.cancel()
            elif leave == "raise":
                raise KeyboardInterrupt

    for leave in ("cancel", "raise", "cancel"):
        try:
            anyio.run(session, leave, backend=backend)
        except (KeyboardInterrupt, BaseExceptionGroup):
            pass
        assert (full.qsize(), full.statistics().waiting_to_put, empty.statistics().waiting_to_get) == (1, 0, 0)

    async def last() -> None:
        assert await full.get() == b"inside"
        await full.put(b"new")
        assert await full.get() == b"new"
        full.task_done()
        full.task_done()
        await full.join()

    anyio.run(last, backend=backend)
    send.close()
    receive.close()
    assert_books_balance(tracker, 0)
    print("done")


def _asyncio_loops_end() -> None:
    _loops_end_with_waiters("asyncio")


def _trio_loops_end() -> None:
    _loops_end_with_waiters("trio")


def _asyncio_run_ends_with_tasks_that_wait() -> None:
    """As programs do that never think of it."""
    tracker = Tracker(100_000)
    queue = AsyncQueue[bytes](tracker.new_account(), 1)
    tasks: list[asyncio.Task[Any]] = []

    async def main() -> None:
        queue.put_nowait(b"inside")
        tasks.extend(asyncio.ensure_future(queue.put(b"too much")) for _ in range(3))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [task.cancelled() for task in tasks] == [True] * 3
    assert queue.get_nowait() == b"inside"
    assert_books_balance(tracker, 0)
    print("done")


@pytest.mark.parametrize("function", [_asyncio_loops_end, _trio_loops_end, _asyncio_run_ends_with_tasks_that_wait])
def test_queues_outlive_the_loops_that_end_while_tasks_wait(function: Callable[[], None]) -> None:
    """F48: no "Task was destroyed", nothing that was never awaited; a new loop can use the same queues."""
    done = run_isolated(function, interpreter_args=["-X", "dev", "-W", "error"])

    assert (done.stdout, done.stderr) == ("done\n", "")


# --- fork -------------------------------------------------------------------------------------------------------------


def _fork_with_the_lock_held() -> None:
    world = World("Queue", "drop_oldest", items=3, maxsize=4)
    empty: Queue[int] = Queue(world.account)
    getters = [InThread(empty.get) for _ in range(2)]
    point = Point()

    def holds() -> None:
        with world.queue._lock:
            point.hold()

    holder = InThread(holds)
    point.await_arrival()
    while empty.statistics().waiting_to_get < 2:
        threading.Event().wait(0.001)

    def child() -> None:
        assert empty.statistics().waiting_to_get == 0
        assert_books_balance(world.tracker, 3 * COST)
        world.queue.put(3, timeout=1)
        assert [world.queue.get(timeout=1) for _ in range(4)] == [0, 1, 2, 3]
        empty.put(5)
        assert empty.get(timeout=1) == 5
        world.account.close()
        assert world.tracker.used == 0

    in_child(child)
    point.let_go()
    holder.result()
    empty.put(1)
    empty.put(2)
    assert sorted(getter.result() for getter in getters) == [1, 2]
    assert_books_balance(world.tracker, 3 * COST)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_process_uses_the_queues_as_they_were() -> None:
    """F41: with the lock of one held by a thread that does not exist in the child, and threads that wait at another."""
    run_isolated(_fork_with_the_lock_held)


# --- memory errors ----------------------------------------------------------------------------------------------------


def fill(world: World) -> None:
    for _ in range(70):
        world.put()


CALLS: dict[str, Callable[[World], object]] = {
    "put": World.put,
    "fill": fill,
    "get": World.get,
    "drop": lambda world: world.buffer.reclaim(ReclaimRequest("a test", 1500, float("inf"), float("inf"))),
    "end": World.end,
    "look": lambda world: world.buffer._statistics(0, 0),
}


def _starve() -> None:
    """Let the first allocation of a call fail, in the next run the second one, until it has no so many."""
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda failure: None  # finalizers have nobody to tell
    kind, stretch = os.environ["KIND"], int(os.environ["STRETCH"])
    for mode, strict, name in itertools.product(MODES, (False, True), CALLS):
        failures = 0
        # Each put of many does the same, but for the one that takes a new block.
        for number in itertools.count(step=17 if name == "fill" else 1):
            world = World(kind, mode, strict=strict)
            failed = False
            _testcapi.set_nomemory(number, number + stretch)
            try:
                CALLS[name](world)
            except MemoryError:
                failed = True
            except RuntimeError as error:  # which is how `threading` says the same
                failed = "can't" in str(error)
                if not failed:
                    raise
            finally:
                _testcapi.remove_mem_hooks()
            try:
                _holds(world)
            except Exception as error:
                raise AssertionError(f"{kind} {mode} {strict} {name}, {stretch} from {number} on: {error}") from error
            failures += failed
            if not failed and number > (2000 if name == "fill" else 150):
                break
        assert failures or name in ("get", "look"), f"{name} never failed"


def _holds(world: World) -> None:
    """What is claimed is what is inside; with what failed to be released until the next move of the books."""
    assert_books_balance(world.tracker)
    world.tracker._books.enter(world.buffer._settle)
    assert world.in_use() == world.buffer._statistics(0, 0).items * COST
    world.attempt(world.put)
    inside = world.inside()
    assert inside == sorted(set(inside))
    assert world.in_use() == 0
    world.end()
    world.account.close()
    assert world.tracker.used == 0


@pytest.mark.skipif(_testcapi is None, reason="no _testcapi in this interpreter: no allocation can fail")
@pytest.mark.parametrize("stretch", [1, 10_000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_runs_out_of_memory_leaves_the_queue_and_its_books_in_order(kind: str, stretch: int) -> None:
    """F44: MemoryError or success."""
    done = run_isolated(_starve, env={"KIND": kind, "STRETCH": str(stretch)}, timeout=100, check=False)
    # 3.12 and 3.13 lose a reference where the making of a function fails, and may crash anywhere later.
    if done.returncode == -signal.SIGSEGV and sys.version_info[:2] in ((3, 12), (3, 13)):
        pytest.skip("this interpreter itself breaks where a function finds no memory")
    assert done.returncode == 0, done.stderr


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_cannot_be_copied(kind: str, duplicate: Callable[[Any], Any]) -> None:
    """F49: a copy would be on the same books."""
    world = World(kind, "collapse")

    for each in (world.send, world.receive) if kind == "stream" else (world.queue,):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(each)

    assert world.inside() == [0, 1, 2]
    with pytest.raises(NOTHING):
        world.get()
    world.end()
