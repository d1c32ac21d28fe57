"""F44: memory runs out at any allocation of any call of a gate, for one allocation or for good."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from memquota import AccountClosed, Gate, Permit, PressureLimiter
from memquota._core.waiting_line import check_line
from memquota.gates.wakeups import ThreadWaiter
from memquota.host.readings import FixedProvider
from memquota.testing import assert_books_balance
from tests.concurrency.starving import LONG, ONCE, Starving, every_allocation, prepare, quiet, run_starving, says_so
from tests.concurrency.support import InThread
from tests.gates import calls
from tests.gates.calls import KB, Call
from tests.gates.support import until


class Guest(InThread[Permit]):
    """A thread that wants to go in. Notes what becomes of it without taking memory."""

    permit: Permit | None = None
    error: BaseException | None = None

    def __init__(self, acquire: Callable[[], Permit]) -> None:
        self.permit = self.error = None
        super().__init__(acquire)

    def _run(self) -> None:
        try:
            self.permit = self._function()
        except BaseException as error:
            self.error = error


class World(calls.World):
    """As that of the other calls, with threads in the line that may find no memory either."""

    def __init__(self, *weights: int | None) -> None:
        self.guests: list[Guest] = []
        super().__init__(*weights)

    def line_up(self, weight: int | None) -> None:
        guest = Guest(partial(self.gate.acquire, weight))
        self.guests.append(guest)
        self.waiting.append(guest)

    def inside(self) -> list[Permit]:
        for guest in self.guests:
            error = guest.error
            if error is not None:
                if not (says_so(error) or (isinstance(error, AccountClosed) and self.account.closed)):
                    raise error
                error.__traceback__ = None  # its frames have the permit
        held = self.permits + [guest.permit for guest in self.guests if guest.permit is not None]
        return [permit for permit in held if not permit.released]

    def settled(self) -> bool:
        alive = sum(guest.thread.is_alive() for guest in self.guests)
        return len(self.admission.guests) == alive == len(self.admission.line) and super().settled()

    def check(self) -> None:
        """The lock is free. And after another move of the line with memory: who is inside is counted, exactly, nobody
        waits in vain, and all goes on to zero.
        """
        gc.collect()
        assert not self.admission.busy
        assert InThread(self.lock_is_free).result()
        self.gate.statistics()
        self.tracker.statistics()  # tells the gate that its account is closed, if the one who closed it could not
        until(self.settled)
        inside = self.inside()
        gc.collect()
        self.gate.statistics()
        with self.admission.lock:
            self.admission._take_back_spare()
        check_line(self.admission.line, [permit.weight for permit in inside])
        assert self.admission.notes is None
        assert_books_balance(self.tracker)
        if not self.account.closed:
            assert self.account.used == sum(permit.booked for permit in inside)
            for permit in inside:
                assert permit.booked in (permit.weight, self.adjusted.get(permit, permit.weight))
        inside.clear()
        self.adjusted.clear()
        self.end()

    def end(self) -> None:
        until(self.let_go)
        self.guests.clear()
        self.waiting.clear()
        super().end()


@calls.call(40 * KB)
def collect(world: calls.World) -> None:
    del world.permits[0]


@calls.call(40 * KB, None)
def release_and_collect(world: calls.World) -> None:
    world.permits.pop().release()
    world.permits.clear()


@calls.call(40 * KB, None)
def wait_and_leave(world: calls.World) -> None:
    """Both others leave while it waits, in this very thread."""
    leaving = list(world.permits)

    def wait(waiter: ThreadWaiter, seconds: float | None) -> None:
        while leaving:
            leaving.pop().release()
        original(waiter, seconds)

    original, ThreadWaiter.wait = ThreadWaiter.wait, wait  # type: ignore[method-assign, assignment]
    try:
        with world.gate.acquire(60 * KB, priority=1):
            pass
    finally:
        ThreadWaiter.wait = original  # type: ignore[method-assign]


@calls.call()
def open_gates(world: calls.World) -> None:
    Gate(world.tracker, capacity="1MiB", max_concurrent=3)
    Gate(world.tracker, account=world.account)


CALLS: dict[str, tuple[tuple[int | None, ...], Call]] = {
    name: (make.args, function)  # type: ignore[attr-defined]
    for name, (make, function) in calls.CALLS.items()
    # Threads that start would find no memory either, and their starter would wait for ever. Tasks: see there.
    if name != "wait_and_go_in" and not name.startswith("task")
}


def run_starved() -> None:
    """Let the first allocation of a call fail, in the next run the second one, until it has no so many."""
    prepare()
    for name in os.environ["CASE"].split():
        weights, function = CALLS[name]
        failures = 0
        for starving in every_allocation():
            world = World(*weights)
            with starving:
                function(world)
            try:
                world.check()
            except Exception as error:
                raise AssertionError(f"{name}, {starving}: {error!r}") from error
            failures += starving.failed
        assert failures or name == "collect", name
        assert starving.number > 5
        print(name, starving.number, "points,", failures, "failures")


@pytest.mark.parametrize("part", range(3))
def test_a_call_that_runs_out_of_memory_strands_nobody(part: int) -> None:
    """F44: MemoryError or success; whoever is inside is counted, and whoever may go in is let in by the next move."""
    run_starving(run_starved, CASE=" ".join([*CALLS][part::3]))


LIMITER: dict[str, Callable[[PressureLimiter], object]] = {
    "delay": lambda limiter: limiter.delay,
    "wait_blocking": PressureLimiter.wait_blocking,
    "look": PressureLimiter._look,
    "close": PressureLimiter.close,
}


def run_limiter_starved() -> None:
    quiet()
    for name, number, stretch in itertools.product(LIMITER, range(25), (ONCE, LONG)):
        limiter = PressureLimiter(FixedProvider(1000, 975), threshold=0.95, shortest=0.0001, longest=0.0003, every=3600)
        # A thread that ends without tuples leaves a lock of `threading` held, and no other one starts any more.
        with Starving(number, stretch, tuples=True):
            LIMITER[name](limiter)
        if name != "close":
            assert abs(limiter.delay - 0.0002) < 1e-9
        limiter.close()
        assert limiter.delay == 0.0
        limiter.wait_blocking()
        until(lambda limiter=limiter: not limiter._ticker.alive)  # type: ignore[misc]


def test_a_limiter_that_runs_out_of_memory_goes_on_and_ends() -> None:
    """F44: the same for a limiter, which holds nothing."""
    run_starving(run_limiter_starved)


# --- what is too rare to be met above ---------------------------------------------------------------------------------


class Unwilling:
    """A lock whose block cannot be left once, for want of memory: it stays held, as with the interpreter's own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_owned = self._lock._is_owned  # type: ignore[attr-defined]
        self.release = self._lock.release
        self.fails = True

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        if self.fails:
            self.fails = False
            raise MemoryError
        self._lock.release()


def _leave(world: calls.World) -> None:
    world.permits.pop().release()


def _enter(world: calls.World) -> None:
    world.gate.acquire(KB).release()


def _look(world: calls.World) -> None:
    world.gate.statistics()


@pytest.mark.filterwarnings("ignore:a permit of:ResourceWarning")  # its holder got a MemoryError instead
@pytest.mark.parametrize("whose", ["the gate", "the books"])
@pytest.mark.parametrize("deed", [_leave, _enter, _look])
def test_a_lock_whose_block_cannot_be_left_is_not_left_held(deed: Call, whose: str) -> None:
    """F44: leaving the block of a lock takes a tuple of three."""
    world = World()
    lock: Any = Unwilling()
    owner, name = (world.admission, "lock") if whose == "the gate" else (world.tracker._books, "_lock")
    setattr(owner, name, lock)

    try:
        deed(world)
    except MemoryError:
        pass

    assert not lock.fails or whose == "the books"
    lock.fails = False
    world.check()


def test_a_slot_that_cannot_be_taken_back_for_want_of_memory_is_still_there() -> None:
    """F44: a list that becomes smaller may take memory."""

    class Stiff(list[None]):
        def pop(self, *_: Any) -> None:
            raise MemoryError

    world = World()
    world.gate.acquire().release()
    assert world.admission.spare == [None]
    world.admission.spare = Stiff(world.admission.spare)

    with pytest.raises(MemoryError):
        world.gate.statistics()

    world.admission.spare = list(world.admission.spare)
    assert world.gate.statistics().inside == 2
    world.check()
