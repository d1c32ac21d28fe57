"""Groups in many threads at once, in executors, in children after a fork, and interrupted by signals."""

import concurrent.futures
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from memquota import UsageError
from memquota.accounting import Group, _steps
from tests.accounting.group_world import StepClock, inside, seconds, standing_clock
from tests.support.watchdog import run_isolated


@pytest.fixture
def clock() -> Iterator[StepClock]:
    with standing_clock() as standing:
        yield standing
    assert _steps.current.get() is None


class OwnClock(threading.local):
    """A clock of each thread, that stands unless the thread computes."""

    now = 1_000

    def read(self) -> int:
        return self.now


@pytest.fixture
def clocks() -> Iterator[OwnClock]:
    own = OwnClock()
    with standing_clock(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_steps, "cpu", own.read)
        patch.setattr(_steps, "_SHORT", -1)
        yield own


def in_threads(count: int, work: Any) -> None:
    """Runs work in so many threads at once, and waits for them."""
    start = threading.Barrier(count)
    errors = []

    def run() -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_many_threads_in_one_group_are_counted_to_the_nanosecond(clocks: OwnClock) -> None:
    group, other = Group("a"), Group("b")

    def work() -> None:
        for _ in range(2000):
            with group:
                clocks.now += 3
                with other:
                    clocks.now += 1
                clocks.now += 4

    def watch() -> None:
        last = (0, 0.0)
        for _ in range(300):
            now = group.statistics()
            assert (now.calls, now.cpu_seconds) >= last  # nothing is ever taken back
            last = (now.calls, now.cpu_seconds or 0.0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        watching = threading.Thread(target=watch)
        watching.start()
        in_threads(8, work)
        watching.join()
    finally:
        sys.setswitchinterval(before)

    assert group.statistics().cpu_seconds == 8 * 2000 * 7 / 1e9
    assert other.statistics().cpu_seconds == 8 * 2000 * 1 / 1e9
    assert (group.statistics().calls, other.statistics().calls) == (16_000, 16_000)


def test_threads_that_have_ended_are_kept_as_a_sum(clock: StepClock) -> None:
    group = Group("a")

    def work() -> None:
        with group:
            clock.compute(1)

    for _ in range(100):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert len(group._tallies) <= 17
    assert seconds(group) == 100
    assert len(group._tallies) == 0
    assert seconds(group) == 100


def test_a_thread_that_is_in_a_group_now_is_counted_already() -> None:
    group = Group("a")
    is_in, may_leave = threading.Event(), threading.Event()
    burnt = 0.0

    def work() -> None:
        nonlocal burnt
        with group:
            begun = time.thread_time()
            while time.thread_time() < begun + 0.05:
                pass
            burnt = time.thread_time() - begun
            is_in.set()
            may_leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    is_in.wait()
    while_in = seconds(group)
    may_leave.set()
    thread.join()

    assert burnt <= while_in <= seconds(group)


def test_a_thread_that_leaves_while_its_clock_is_read_is_looked_at_again(clock: StepClock) -> None:
    group = Group("a")
    is_in, may_leave, has_left, may_end = (threading.Event() for _ in range(4))

    def read() -> int:
        may_leave.set()
        has_left.wait()
        return clock.computed

    def work() -> None:
        _steps.this_thread().clock = read
        with group:
            clock.compute(1)
            is_in.set()
            may_leave.wait()
        clock.compute(100)
        has_left.set()
        may_end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    is_in.wait()
    used = seconds(group)
    may_end.set()
    thread.join()

    assert used == 1


def test_a_group_must_be_left_in_the_thread_that_entered_it(clock: StepClock) -> None:
    group = Group("a")
    group.__enter__()
    refused: list[str] = []

    def work() -> None:
        try:
            group.__exit__(None, None, None)
        except UsageError as error:
            refused.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert refused == ["group 'a' cannot be left here: in this thread and task none is entered"]
    assert inside() == ["a"]
    group.__exit__(None, None, None)


def test_a_thread_that_is_started_in_a_group_is_not_in_it(clock: StepClock) -> None:
    group = Group("a")

    with group:
        thread = threading.Thread(target=clock.compute, args=(0,))
        thread.start()
        thread.join()

    assert len(group._tallies) == 1


# --- executors --------------------------------------------------------------------------------------------------------


def test_what_a_bound_executor_runs_is_in_the_group(clock: StepClock) -> None:
    group = Group("a")

    def work(each: float, *, twice: bool = False) -> float:
        clock.compute(each)
        return each * 2 if twice else each

    with ThreadPoolExecutor(1) as pool:
        bound = group.bind(pool)
        future = bound.submit(work, 2, twice=True)
        pool.submit(work, 100).result()
        also = list(bound.map(work, [1, 3]))

    assert future.result() == 4
    assert also == [1, 3]
    assert seconds(group) == 6
    assert group.statistics().calls == 3
    assert isinstance(bound, Executor)


def test_what_a_bound_executor_runs_raises_as_ever(clock: StepClock) -> None:
    group = Group("a")

    with group.bind(ThreadPoolExecutor(1)) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(len, "")


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor, len])
def test_bind_refuses_what_is_no_executor(executor: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"bind takes an executor, not {executor!r}")):
        Group("a").bind(executor)


def test_bind_refuses_executors_of_other_processes_and_interpreters() -> None:
    kinds: list[Any] = [ProcessPoolExecutor]
    if hasattr(concurrent.futures, "InterpreterPoolExecutor"):
        kinds.append(concurrent.futures.InterpreterPoolExecutor)
    for kind in kinds:
        with kind(1) as pool:
            with pytest.raises(UsageError, match=f"what a {kind.__name__} runs cannot be measured in this process"):
                Group("a").bind(pool)


# --- forks and signals ------------------------------------------------------------------------------------------------


def test_after_a_fork_the_child_counts_from_zero_and_goes_on_where_it_is() -> None:
    """F41: another thread holds the group's lock at that moment."""
    run_isolated("""
        import os, threading, time
        from memquota.accounting import Group

        def burn(seconds):
            begun = time.thread_time()
            while time.thread_time() < begun + seconds:
                pass

        def now(group):
            return group.statistics().cpu_seconds

        group, other = Group("a"), Group("b")
        held, done = threading.Event(), threading.Event()
        def hold():
            with other:
                burn(0.02)
            with group._lock, other:
                held.set()
                done.wait()
        thread = threading.Thread(target=hold)
        with group:
            burn(0.02)
        with group:
            burn(0.05)
            thread.start()
            held.wait()
            child = os.fork()
            if not child:
                status = 1
                try:
                    before = now(group)
                    burn(0.01)
                    after = now(group)
                    assert before < 0.01 <= after < 0.04, (before, after)
                    seen = []
                    watching = threading.Thread(target=lambda: seen.append(now(group)))
                    watching.start()
                    watching.join()
                    assert after <= seen[0] < 0.04, (after, seen)
                    assert group.statistics().calls == 0
                    assert (now(other), other.statistics().calls) == (0.0, 0)
                    with other:
                        burn(0.01)
                    assert now(other) >= 0.01
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            done.set()
            thread.join()
            assert now(group) >= 0.05
            assert now(other) >= 0.02
    """)


def test_a_signal_handler_in_the_middle_of_a_change_gets_its_own_time_and_no_more(
    clock: StepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F43: a handler that enters a group itself, at each reading of the clock."""
    group, outer, handlers = Group("a"), Group("outer"), Group("handler")
    interrupts = 0

    def interrupted() -> int:
        now = clock.computed
        if not nested:
            handler()
        return now

    def handler() -> None:
        nonlocal interrupts
        nested.append(True)
        with handlers:
            clock.compute(1000)
        interrupts += 1
        nested.pop()

    nested: list[bool] = []
    monkeypatch.setattr(_steps, "cpu", interrupted)
    with outer:
        clock.compute(1)
        with group:
            clock.compute(2)
        clock.compute(4)

    async def work() -> None:
        clock.compute(2)

    with outer:
        with pytest.raises(StopIteration):
            group.run(work()).send(None)

    assert interrupts >= 5
    assert seconds(handlers) == 1000 * interrupts
    assert (seconds(outer), seconds(group)) == (5, 4)
    assert inside() == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # where it is interrupted before that
@pytest.mark.parametrize("at", range(8))
def test_an_interrupt_at_a_reading_of_the_clock_leaves_nothing_entered(
    clock: StepClock, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """F42: the signal arrives after the clock was read, which is where CPython lets it in."""
    group, outer = Group("a"), Group("outer")
    left = at

    def interrupted() -> int:
        nonlocal left
        left -= 1
        if left == -1:
            raise KeyboardInterrupt
        return clock.real()

    async def work() -> None:
        with group:
            clock.compute(2)

    monkeypatch.setattr(_steps, "real", interrupted)
    try:
        with outer:
            with group:
                clock.compute(1)
            with pytest.raises(StopIteration):
                outer.run(group.run(work())).send(None)
    except KeyboardInterrupt:
        pass
    else:
        assert left >= 0

    assert inside() == []
    assert _steps.current.get() is None


@pytest.mark.leaves_threads  # the interpreter's own, where signals come from
def test_real_interrupts_leave_nothing_entered() -> None:
    """F42: real signals at random moments."""
    run_isolated(interrupt_over_and_over, timeout=60)


def interrupt_over_and_over() -> None:
    """In a process of its own: hundreds of interrupts of coroutines and blocks."""
    group, outer = Group("a"), Group("outer")

    class Pause:
        def __await__(self) -> Any:
            yield

    async def work() -> None:
        while True:
            with outer:
                pass
            await Pause()

    me = threading.get_ident()
    sys.setswitchinterval(1e-5)
    for number in range(300):
        caught = False
        armed = threading.Event()

        def interrupt(armed: threading.Event = armed, number: int = number) -> None:
            armed.wait()
            for _ in range(number % 50):
                pass
            signal.pthread_kill(me, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        coroutine = group.run(work())
        try:
            armed.set()
            while True:
                coroutine.send(None)
        except KeyboardInterrupt:
            caught = True
        thread.join()
        assert caught
        coroutine.close()
        # What is left open by an interrupt within `__enter__`'s or `__exit__`'s own call is none of ours to see.
        assert "a" not in inside(), (number, inside())
    assert os.getpid()
