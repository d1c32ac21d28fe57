"""Ctrl-C, finalizers and signal handlers at every point of put, get and the end."""

import logging
import math
import os
from collections.abc import Callable
from functools import partial

import pytest

from memquota import Queue, ReclaimRequest, ShutDown, Tracker, UsageError
from memquota.reclaimers import _loop
from memquota.testing import assert_books_balance
from tests.concurrency.interrupts import every_interrupt
from tests.concurrency.support import InThread
from tests.queues.points import at_every_point
from tests.queues.worlds import COST, KINDS, World
from tests.support.watchdog import run_isolated


def give_back(world: World) -> None:
    """What the tracker asks for in a round."""
    if world.mode == "collapse":
        world.account.close()
    else:
        world.buffer.reclaim(ReclaimRequest("a test", 1500, math.inf, math.inf))


CALLS: dict[str, Callable[[World], object]] = {
    "put": World.put,
    "get": World.get,
    "end": World.end,
    "give back": give_back,
    "round": lambda world: world.tracker.reclaim(1500),
}
MODES = ("collapse", "drop_oldest")
CASES: dict[str, Callable[[], None]] = {}
_SOAK = os.environ.get("POINTS") == "soak"
_TIMEOUT = {"some": 300, "soak": 1500}
#: Every so many points: a round has a thousand, most of which are none of the queues' business.
_STEPS = {} if _SOAK else {"round": 97}


def interrupted(kind: str, mode: str, strict: bool, name: str) -> None:
    logging.disable()
    _loop._SLICE = float("inf")  # type: ignore[misc]  # tracing is slow, and a round that stops is another story
    points = 0
    for interrupt in every_interrupt(step=_STEPS.get(name, 1)):
        world = World(kind, mode, strict=strict)
        with interrupt:
            CALLS[name](world)
        try:
            survives(world)
        except Exception as error:
            raise AssertionError(f"interrupted at {interrupt.where}: {type(error).__name__}: {error}") from error
        points += interrupt.fired
    # Where credit is in hand a get has no point but its beginning.
    assert points >= 1


def survives(world: World) -> None:
    """The lock is free, and the books say what is inside or one item more; what comes later is counted as ever.

    Whatever interrupted the end of the account, the queue was told of it.
    """
    assert world.lock_is_free()
    assert_books_balance(world.tracker)
    for _ in range(3):
        inside = 0 if world.account.closed else world.buffer._statistics(0, 0).items * COST
        assert inside <= world.in_use() <= inside + COST, f"{world.in_use()} claimed, {inside} inside"
        world.attempt(world.put)
        world.attempt(world.put)
        world.attempt(world.get)
    inside = len(world.inside()) * COST
    assert world.in_use() <= COST
    if world.account.closed:
        assert len(world.collapses) == 1, f"told of the collapse {len(world.collapses)} times"
    world.end()
    world.account.close()
    assert world.tracker.used == 0


for _kind in KINDS:
    for _mode in MODES:
        for _strict in (False, True):
            for _name in CALLS:
                CASES[f"{_kind}-{_mode}-{'strict' if _strict else 'credit'}-{_name}"] = partial(
                    interrupted, _kind, _mode, _strict, _name
                )


def run_cases() -> None:
    """All cases of one kind; in a process of its own, where a hang is a failure."""
    failures = []
    for name, case in CASES.items():
        if name.startswith(os.environ["KIND"]):
            try:
                case()
            except AssertionError as error:
                failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


#: In `make test` some of the points, in `make soak` all.
HOW_MANY = pytest.mark.parametrize("how_many", ["some", pytest.param("soak", marks=pytest.mark.soak)])


@HOW_MANY
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_any_point_leaves_one_item_too_much_at_most(kind: str, how_many: str) -> None:
    """F42: KeyboardInterrupt at any point of put, get, a drop and the end."""
    run_isolated(run_cases, timeout=_TIMEOUT[how_many], env={"KIND": kind + "-", "POINTS": how_many})


# --- calls in the middle of calls -------------------------------------------------------------------------------------

NESTED: dict[str, Callable[[World], object]] = {
    "put": lambda world: world.attempt(world.put),
    "get": lambda world: world.attempt(world.get),
    "end": lambda world: world.end(),
    "reclaim": lambda world: world.tracker.reclaim(1500),
    "close": lambda world: world.account.close(),
}


def nested(kind: str, mode: str, strict: bool, call: str, name: str) -> None:
    logging.disable()
    _loop._SLICE = float("inf")  # type: ignore[misc]
    worlds: list[World] = []

    def act() -> None:
        try:
            NESTED[name](worlds[-1])
        except UsageError as error:
            if "in the middle of" not in str(error):  # refused, because this thread is inside the books
                raise

    for point in at_every_point(act, elsewhere=False, step=_STEPS.get(call, 1 if _SOAK else 7)):
        worlds.append(World(kind, mode, strict=strict))
        with point:
            worlds[-1].attempt(partial(CALLS[call], worlds[-1]))
        try:
            worlds[-1].check(given_up=name == "end" or call == "end")
        except Exception as error:
            raise AssertionError(f"at {point.where}: {type(error).__name__}: {error}") from error


def run_nested() -> None:
    failures = []
    for mode in MODES:
        for strict in (False, True):
            for call in CALLS:
                for name in NESTED:
                    if call == "round" and name == "reclaim":
                        continue  # a round cannot be asked for in the middle of a round
                    try:
                        nested(os.environ["KIND"], mode, strict, call, name)
                    except AssertionError as error:
                        failures.append(f"{mode} {'strict' if strict else 'credit'} {name} in {call}: {error}")
    assert not failures, "\n".join(failures)


@HOW_MANY
@pytest.mark.parametrize("kind", KINDS)
def test_a_finalizer_or_signal_handler_may_use_the_queue_at_any_point(kind: str, how_many: str) -> None:
    """F43: without a deadlock; nothing is lost, and what is claimed is what is inside."""
    run_isolated(run_nested, timeout=_TIMEOUT[how_many], env={"KIND": kind, "POINTS": how_many})


# --- calls in the middle of a move, while another thread has the lock of the queue and waits for the books -----------

MEANWHILE: dict[str, Callable[[Queue[int]], object]] = {
    "shutdown": Queue.shutdown,
    "shutdown at once": lambda queue: queue.shutdown(immediate=True),
    "task_done": Queue.task_done,
    "maxsize": lambda queue: setattr(queue, "maxsize", 3),
    "join": Queue.join,
    "put": lambda queue: queue.put(3),
    "get": Queue.get,
}


def _meanwhile() -> None:
    tracker = Tracker(100_000, strict=True)
    queue: Queue[int] = Queue(tracker.new_account())
    queue.put(1)
    putters: list[InThread[None]] = []

    def move() -> None:
        putters.append(InThread(queue.put, 2))
        while queue._lock.acquire(blocking=False):  # it has the lock when it waits for the books
            queue._lock.release()
        MEANWHILE[os.environ["CALL"]](queue)

    try:
        tracker._books.enter(move)
    except UsageError as error:
        print(error)
    try:
        putters[0].result()
    except ShutDown as error:
        print(type(error).__name__)
    print(queue.is_shutdown)


@pytest.mark.parametrize("call", MEANWHILE)
def test_whoever_is_inside_the_books_never_waits_for_the_lock_of_a_queue(call: str) -> None:
    """F43: a signal handler or finalizer; the other thread would wait for it."""
    done = run_isolated(_meanwhile, env={"CALL": call})

    if call.startswith("shutdown"):
        assert done.stdout == "ShutDown\nTrue\n"
    else:
        assert "in the middle of a move" in done.stdout
        assert done.stdout.endswith("\nFalse\n")
