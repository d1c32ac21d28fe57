"""Gates under what goes wrong: races, dead loops and threads, signals, forks, permits that are dropped."""

import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from memquota import AsyncGate, Gate, Permit, QuotaExceeded, Tracker, UsageError, WouldBlock
from memquota._core.waiting_line import Ticket, TicketState
from memquota.gates.admission import Admission
from memquota.gates.booking import book
from tests.concurrency.support import InThread
from tests.gates.support import balanced, until
from tests.support.watchdog import run_isolated


@pytest.mark.parametrize("timeout", [0, 1e-9, 1e-4])
def test_a_timeout_that_races_with_the_grant_is_a_timeout_or_a_permit(timeout: float) -> None:
    """F38: Timeout xor permit."""
    gate = Gate(Tracker(10_000), max_concurrent=2, capacity=10)
    counts = {"in": 0, "out": 0}

    def work() -> tuple[int, int]:
        entered = timed_out = 0
        for _ in range(300):
            try:
                permit = gate.acquire(4, timeout=timeout)
            except TimeoutError:
                timed_out += 1
            else:
                entered += 1
                assert gate.statistics().inside <= 2
                permit.release()
        return entered, timed_out

    with ThreadPoolExecutor(4) as pool:
        for entered, timed_out in [future.result() for future in [pool.submit(work) for _ in range(4)]]:
            counts["in"] += entered
            counts["out"] += timed_out

    assert sum(counts.values()) == 1200
    balanced(gate)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    gate = Gate(Tracker(1000), max_concurrent=1)

    with pytest.raises(UsageError):
        gate.acquire(timeout=timeout)

    balanced(gate)


def test_a_dropped_permit_is_released_with_a_warning_that_names_where() -> None:
    """F40: without a context manager."""
    gate = Gate(Tracker(1000), max_concurrent=1)
    permit = gate.acquire(5)
    where = permit.where
    waiter = threading.Thread(target=lambda: gate.acquire(5).release())
    waiter.start()
    until(lambda: gate.statistics().waiting == 1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del permit
        gc.collect()

    waiter.join(20)
    assert not waiter.is_alive()
    assert [str(warning.message) for warning in caught] == ["a permit of 5 B was dropped without being released"]
    assert f"{caught[0].filename}:{caught[0].lineno}" == where
    assert where.startswith(__file__)
    balanced(gate)


def test_a_thread_that_dies_holding_a_permit_gives_it_back() -> None:
    """F40: exceptions leave through the context manager."""
    gate = Gate(Tracker(1000), max_concurrent=1)

    def die() -> None:
        with gate.acquire(5):
            raise ZeroDivisionError

    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        pool.submit(die).result()

    balanced(gate)


def test_a_thread_that_dies_with_a_permit_gives_it_back_with_a_warning_that_names_where() -> None:
    """F40: without a context manager, when its frames are collected."""
    gate = Gate(Tracker(1000), max_concurrent=1)

    def die() -> None:
        permit = gate.acquire(5)
        assert permit.released

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(AssertionError):
                pool.submit(die).result()
        gc.collect()

    assert [str(warning.message) for warning in caught] == ["a permit of 5 B was dropped without being released"]
    assert (caught[0].filename, caught[0].lineno) == (__file__, die.__code__.co_firstlineno + 1)
    balanced(gate)


def test_a_program_ends_while_daemon_threads_are_inside_and_wait() -> None:
    """F40: nothing is said but which permits were dropped."""
    done = run_isolated(_daemons, interpreter_args=["-W", "ignore::ResourceWarning"])

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _daemons() -> None:
    gate = Gate(Tracker(1000), max_concurrent=2)
    inside = threading.Semaphore(0)
    for_ever = threading.Event()

    def hold() -> None:
        with gate.acquire(5):
            inside.release()
            for_ever.wait()

    def hold_without() -> None:
        permit = gate.acquire()
        inside.release()
        for_ever.wait()
        permit.release()

    for target in (hold, hold_without, gate.acquire):
        threading.Thread(target=target, daemon=True).start()
    inside.acquire()
    inside.acquire()
    until(lambda: gate.statistics().waiting == 1)
    _kept.append(gate)


#: Until the very end.
_kept: list[Gate] = []


def test_two_who_reconfigure_at_once_undo_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(Tracker(1000))
    wanted = {"on_full": "refuse", "oversized": "refuse", "high": 0.5, "hysteresis": 0.25, "capacity": 5}
    arrived: list[int] = []
    move = Admission.move

    def moved(self: Admission, *arguments: Any) -> Any:
        arrived.append(1)
        until(lambda: len(arrived) >= len(wanted))  # all have looked at what there is
        return move(self, *arguments)

    monkeypatch.setattr(Admission, "move", moved)
    with ThreadPoolExecutor(len(wanted)) as pool:
        for what, value in wanted.items():
            pool.submit(gate.reconfigure, **{what: value})  # type: ignore[arg-type]

    admission = gate._admission
    measure = admission.outlook.measure
    assert (admission.on_full, admission.line.refuse_oversized, admission.line.capacity) == ("refuse", True, 5)
    assert (measure.high, measure.hysteresis) == (0.5, 0.25)


def test_a_slot_above_a_number_that_was_lowered_is_not_handed_to_whoever_comes_next() -> None:
    """F36: nobody waits, and nobody looks in between."""
    gate = Gate(Tracker(1000), max_concurrent=3)
    inside = [gate.acquire() for _ in range(3)]
    gate.reconfigure(max_concurrent=1)
    got: list[Permit] = []

    inside.pop().release()
    newcomer = threading.Thread(target=lambda: got.append(gate.acquire()))
    newcomer.start()
    until(lambda: bool(got or gate._admission.line.first))
    assert not got
    inside.pop().release()
    assert gate.statistics().waiting == 1
    inside.pop().release()
    newcomer.join(20)
    got.pop().release()
    balanced(gate)


async def test_a_slot_above_a_number_that_was_lowered_is_not_handed_to_the_next_task() -> None:
    """F36: as above."""
    gate = AsyncGate(Tracker(1000), max_concurrent=3)
    inside = [await gate.acquire() for _ in range(3)]
    gate.reconfigure(max_concurrent=1)

    for _ in range(2):
        inside.pop().release()
        with anyio.move_on_after(0) as scope:
            async with gate.acquire():
                pass
        assert scope.cancelled_caught
    inside.pop().release()
    async with gate.acquire():
        assert gate.statistics().inside == 1
    balanced(gate)


def test_who_is_let_in_and_not_yet_booked_takes_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody waits, and nobody takes the way through the line."""
    gate = Gate(Tracker(1000))

    def book_late(admission: Admission, permit: Permit) -> None:
        with pytest.raises(WouldBlock):
            gate.acquire_nowait(401)
        gate.acquire_nowait(400).release()
        book(admission, permit)

    monkeypatch.setattr("memquota.gates.blocking.book", book_late)
    gate.acquire(600).release()

    balanced(gate)


def test_who_came_while_somebody_was_counted_twice_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the books already, and still promised: nobody else would look around for whoever waits now."""
    gate = Gate(Tracker(1000))
    books = gate._admission.books
    enter = books.enter
    came: list[bool] = []
    newcomers: list[InThread[Permit]] = []

    def enter_and_wait(action: Callable[..., Any], *arguments: Any) -> Any:
        result = enter(action, *arguments)
        if not came:
            came.append(True)
            newcomers.append(InThread(gate.acquire, 400))
            until(lambda: gate._admission.line.first is not None)
        return result

    monkeypatch.setattr(books, "enter", enter_and_wait)
    with gate.acquire(600):
        newcomers.pop().result().release()
    balanced(gate)


def test_guests_may_notice_and_leave_while_they_are_looked_through() -> None:
    """As another thread does, without the lock, after somebody's call failed in the middle of a move."""
    gate = Gate(Tracker(1000))
    guests = gate._admission.guests

    class Guest(Ticket):
        waiter = None

        @property
        def state(self) -> TicketState:  # type: ignore[override]
            guests.pop(self, None)  # type: ignore[call-overload]
            return TicketState.INSIDE

    for _ in range(3):
        guests[Guest(1)] = None  # type: ignore[index]
    with pytest.raises(UsageError, match="max_concurrent of 0"):
        gate.reconfigure(max_concurrent=0)

    assert not guests
    balanced(gate)


def test_gates_and_permits_keep_the_accounts_open_that_they_were_given() -> None:
    """P7: nobody else holds them; they close with who was given them."""
    tracker = Tracker(1000)
    gate = Gate(tracker, account=tracker.new_account("of the gate"))
    permits = [gate.acquire(5), gate.acquire(6, account=tracker.new_account("of the permit"))]
    gc.collect()

    assert tracker.used == 11
    assert {node.name for node in tracker._books.ledger.accounts} == {"tracker", "of the gate", "of the permit"}
    for permit in permits:
        permit.release()
    balanced(gate)
    del gate, permit, permits
    gc.collect()
    assert tracker.used == 0
    assert {node.name for node in tracker._books.ledger.accounts} == {"tracker"}


def test_a_hard_limit_refuses_and_the_next_one_goes_in() -> None:
    tracker = Tracker(1000, hard_limit=1000)
    narrow = tracker.new_account("narrow", hard_limit=3)
    gate = Gate(tracker, max_concurrent=1)

    with pytest.raises(QuotaExceeded):
        gate.acquire(5, account=narrow)

    with gate.acquire(5) as permit:
        with pytest.raises(QuotaExceeded):
            permit.adjust(2000)
        assert permit.weight == 5
        assert tracker.used == 5
    balanced(gate)


def test_a_permit_that_is_released_while_it_is_adjusted_holds_nothing() -> None:
    gate = Gate(Tracker(1_000_000), capacity=100_000)
    for _ in range(200):
        permit = gate.acquire(5)
        threads = [threading.Thread(target=permit.release)]
        threads[0].start()
        try:
            permit.adjust(50_000)
        except UsageError:
            pass
        threads[0].join()
    balanced(gate)


def test_signal_handlers_and_finalizers_may_release_in_the_middle_of_anything() -> None:
    """F43: no deadlock: a release in the middle of a move is deferred, an acquire is refused."""
    run_isolated(_signals)


def _signals() -> None:

    tracker = Tracker(1_000_000)
    gate = Gate(tracker, max_concurrent=50, capacity=500_000)
    data = tracker.new_account("data")
    spare = [gate.acquire(10) for _ in range(20)]
    refused = []

    def handler(number: int, frame: object) -> None:
        if spare:
            spare.pop().release()
        try:
            spare.append(gate.acquire(10, timeout=0))
        except (UsageError, TimeoutError) as error:
            refused.append(error)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            with gate.acquire(100):
                pass

    thread = threading.Thread(target=others)
    thread.start()
    for _ in range(5000):
        with gate.acquire(1000) as permit:
            permit.adjust(900)
            data.claim(10)
        data.release(10)
    signal.setitimer(signal.ITIMER_REAL, 0)
    stop.set()
    thread.join()
    for permit in spare:
        permit.release()
    balanced(gate)


def test_a_forked_child_has_a_fresh_lock_and_no_waiters() -> None:
    """F41: the lock may be held by a thread that does not exist in the child."""
    run_isolated(_fork)


def _fork() -> None:
    gate = Gate(Tracker(1000), max_concurrent=1)
    inside = gate.acquire(5)
    thread = threading.Thread(target=lambda: gate.acquire().release())
    thread.start()
    until(lambda: gate.statistics().waiting == 1)
    locked, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with gate._admission.lock:
            locked.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait()
    child = os.fork()
    if not child:
        assert gate.statistics().waiting == 0
        inside.release()
        gate.acquire(5).release()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    holder.join()
    inside.release()
    thread.join()


def test_ctrl_c_while_waiting_gives_up_the_place() -> None:
    run_isolated(_ctrl_c)


def _ctrl_c() -> None:
    import _thread

    gate = Gate(Tracker(1000), max_concurrent=1)
    inside = gate.acquire(5)

    def interrupt() -> None:
        until(lambda: gate.statistics().waiting == 1)
        _thread.interrupt_main()
        os.kill(os.getpid(), 2)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        gate.acquire(5)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it got in")
    thread.join()
    inside.release()
    balanced(gate)
