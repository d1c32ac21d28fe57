"""Ctrl-C, signal handlers and finalizers at every point of every call of a gate."""

import gc
import logging
import os
import warnings
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest
import trio

from memquota import AccountClosed, UsageError, WouldBlock
from tests.concurrency.interrupts import InterruptAt, _names
from tests.gates.calls import BACKEND, CALLS, KB, SLOTS, World, adjust_up, narrow
from tests.queues.points import ActAt
from tests.support.watchdog import run_isolated

CASES = os.environ.get("CASE", "").split()
PLAIN = [name for name in CALLS if not name.startswith("task")]
TASKS = [name for name in CALLS if name.startswith("task")]


def _start(code: CodeType) -> int:
    """Where a function begins, after what makes a coroutine of it."""
    return next(offset for offset, name in _names(code).items() if name == "RESUME")


class Interrupt(InterruptAt):
    """KeyboardInterrupt, but not where it cannot come, or nobody would hear of it: that is the end of a finalizer.

    Trio keeps it from what it runs by itself. A coroutine that goes on has no such point of its own; profiling says so.
    """

    def _point(self, frame: FrameType, event: str) -> None:
        if BACKEND == "trio" and trio.lowlevel.currently_ki_protected():
            return
        if event == "call" and frame.f_lasti > _start(frame.f_code):
            return
        above: FrameType | None = frame
        while above is not None:
            if above.f_code.co_name == "__del__":
                return
            above = above.f_back
        super()._point(frame, event)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        super().__exit__(kind, error, trace)
        while isinstance(error, BaseExceptionGroup):  # from a task group, or a loop of trio
            error = error.exceptions[0]
        return isinstance(error, KeyboardInterrupt)


def quiet() -> None:
    gc.collect()
    gc.freeze()  # so that looking for garbage takes no time
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)


def run_interrupted() -> None:
    """Each call, interrupted at each of its points."""
    quiet()
    for name in CASES:
        interrupted(name)


def interrupted(name: str) -> None:
    make, function = CALLS[name]
    number = 0
    while True:
        world = make()
        interrupt = Interrupt(number)
        with interrupt:
            function(world)
        try:
            world.check()
        except Exception as error:
            raise AssertionError(f"{name} interrupted at point {number}, {interrupt.where}: {error!r}") from error
        if not interrupt.fired:
            break
        number += 1
    assert number >= 3
    print(name, number, "points")


@pytest.mark.parametrize("names", [PLAIN[:9], PLAIN[9:]], ids=["going in", "leaving"])
def test_an_interrupt_at_any_point_strands_nobody(names: list[str]) -> None:
    """F42: the lock is free, nobody inside is under-counted, whoever can go in is in, and closing gives zero."""
    run_isolated(run_interrupted, env={"CASE": " ".join(names)}, timeout=300)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_at_any_point_of_a_task_strands_nobody(backend: str) -> None:
    """F42: the same for tasks; the interrupt ends their loop."""
    run_isolated(run_interrupted, env={"CASE": " ".join(TASKS), "BACKEND": backend}, timeout=300)


# --- calls in the middle of calls -------------------------------------------------------------------------------------


def _release(world: World) -> None:
    world.permits[0].release()


def _drop(world: World) -> None:
    del world.permits[0]


def _acquire(world: World) -> None:
    try:
        world.gate.acquire_nowait(5 * KB).release()
        world.permits.append(world.gate.acquire_nowait())
    except WouldBlock:
        pass


def _reconfigure(world: World) -> None:
    world.gate.reconfigure(capacity=120 * KB, max_concurrent=5)


def _close(world: World) -> None:
    world.closes = True
    world.account.close()


NESTED: dict[str, Callable[[World], object]] = {
    "release": _release,
    "drop": _drop,
    "acquire_nowait": _acquire,
    "reconfigure": _reconfigure,
    "close": _close,
}


def _expected(error: BaseException, name: str, world: World) -> bool:
    """Whether this is what has to come of a call in whose middle that happened."""
    if isinstance(error, BaseExceptionGroup):
        return all(_expected(inner, name, world) for inner in error.exceptions)
    if isinstance(error, AccountClosed):
        return world.closes
    if isinstance(error, WouldBlock):
        return name in ("acquire_nowait", "reconfigure")
    if isinstance(error, IndexError):  # no such permit any more
        return name == "drop"
    return isinstance(error, UsageError) and name in ("release", "drop") and "cannot be adjusted" in str(error)


def run_nested() -> None:
    """One call, and another one at each of its points: by the same thread, or by another one."""
    quiet()
    for name in CASES:
        nested(name)


def nested(call: str) -> None:
    make, function = CALLS[call]
    elsewhere = os.environ["WHO"] == "another thread"
    # Every eleventh point, and of calls that come to a loop as well every 23rd, but in `make soak`.
    step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else 23 if call.startswith("task") else 11
    points = 0
    for name, deed in NESTED.items():
        number = 0
        while True:
            world = make(slots=SLOTS + 1)  # one for whoever comes between

            def act(world: World = world, deed: Callable[[World], object] = deed) -> None:
                try:
                    deed(world)
                except UsageError as error:
                    if "in the middle of" not in str(error):
                        raise
                except AccountClosed:
                    assert world.closes

            point = ActAt(number, act, elsewhere=elsewhere)
            with point:
                try:
                    function(world)
                except Exception as error:
                    if not _expected(error, name, world):
                        raise
            line = world.admission.line
            try:
                if function not in (narrow, adjust_up) and name != "reconfigure":
                    assert line.inside <= (line.max_concurrent or 0), "over-granted"
                    assert line.held <= (line.capacity or 0), "over-granted"
                world.check()
            except Exception as error:
                raise AssertionError(f"{name} in {call} at point {number}, {point.where}: {error!r}") from error
            if not point.fired:
                break
            number += step
            points += 1
    assert points >= 3
    print(call, points, "points")


@pytest.mark.parametrize("who", ["this thread", "another thread"])
@pytest.mark.parametrize("names", [PLAIN[:9], PLAIN[9:]], ids=["going in", "leaving"])
def test_whatever_comes_in_the_middle_of_a_call_strands_nobody(names: list[str], who: str) -> None:
    """F35, F43: by a signal handler or finalizer, or by another thread: no deadlock, nobody over-granted."""
    run_isolated(run_nested, env={"CASE": " ".join(names), "WHO": who}, timeout=300)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("who", ["this thread", "another thread"])
def test_whatever_comes_in_the_middle_of_a_task_strands_nobody(who: str, backend: str) -> None:
    """F43: the same for tasks."""
    run_isolated(run_nested, env={"CASE": " ".join(TASKS), "WHO": who, "BACKEND": backend}, timeout=300)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("who", ["this thread", "another thread"])
@pytest.mark.parametrize("name", CALLS)
def test_whatever_comes_at_any_point_at_all_strands_nobody(name: str, who: str, backend: str) -> None:
    """F43: the same, at each point."""
    run_isolated(run_nested, env={"CASE": name, "WHO": who, "BACKEND": backend}, timeout=600)
