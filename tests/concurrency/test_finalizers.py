"""F23, F43: finalizers and signal handlers that use the tracker wherever they come. Each in a process of its own."""

import gc
import logging
import os
import random
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from memquota import MemoryQuotaError, Reclaimed, Tracker, UsageError
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.concurrency.support import InThread
from tests.support.watchdog import run_isolated

MIB = 2**20


class Cyclic:
    """A participant in a reference cycle, whose finalizer calls whatever it can."""

    tracker: Tracker
    neighbour: ScriptedParticipant
    refused = 0
    made = 0
    ran = 0

    def __init__(self, number: int) -> None:
        Cyclic.made += 1
        self.cycle = self
        self.number = number
        self.account = Cyclic.tracker.new_account(f"c{number}")
        self.part = self.account.register_participant(self)
        self.part.claim(1000 + number % 3000)

    def oldest_data(self) -> float:
        return float(self.number)

    def reclaim(self, request: object) -> Reclaimed:
        return Reclaimed.COLLAPSING

    def __del__(self) -> None:
        Cyclic.ran += 1
        self.part.release(1000)
        self.part.close()
        self.account.close()
        self.tracker.used  # noqa: B018
        try:
            self.neighbour.participation.claim(10)
            self.neighbour.participation.release(10)
            self.tracker.new_account().claim(1)
        except UsageError:  # in the middle of a move of this very thread
            Cyclic.refused += 1
        except MemoryQuotaError:
            pass


def _collected_everywhere(reclaimer: str) -> None:
    """Cycles die at every allocation of something that the collector tracks, also under the lock."""
    logging.disable()  # so many collections make everything slow
    clock = FakeClock()
    tracker = Tracker(MIB, clock=clock, reclaimer=reclaimer)
    _forbid_reentry(tracker)
    Cyclic.tracker = tracker
    Cyclic.neighbour = ScriptedParticipant(tracker.new_account("neighbour", minimum=MIB), clock, answer="partial")
    gc.collect()
    gc.set_threshold(1, 1, 1)
    random.seed(4)
    alive: list[Cyclic] = []
    for number in range(3000):
        clock.advance(1)
        try:
            alive.append(Cyclic(number))
        except MemoryQuotaError:
            pass
        if len(alive) > 100:
            del alive[random.randrange(len(alive))]
    alive.clear()
    gc.set_threshold(700, 10, 10)
    Cyclic.neighbour.participation.close()
    for _ in range(100):  # a collection does nothing while another thread collects
        gc.collect()
        if Cyclic.ran == Cyclic.made and tracker._rounds.runner is None:
            break
        threading.Event().wait(0.05)
    tracker.statistics()

    assert tracker.used == 0, tracker.used
    assert_books_balance(tracker, 0)
    assert Cyclic.ran == Cyclic.made == 3000
    print("refused", Cyclic.refused)
    tracker.close()


def _forbid_reentry(tracker: Tracker) -> None:
    """Fail when one move of the books begins in the middle of another one."""
    ledger: Any = tracker._books.ledger
    inside: list[str] = []

    def watch(name: str) -> None:
        original = getattr(ledger, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            assert not inside, f"{name} in the middle of {inside}"
            inside.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                inside.pop()

        setattr(ledger, name, watched)

    for name in ("claim", "release", "release_late", "claim_own", "release_own", "close_handle", "add_handle"):
        watch(name)


def _collected_inline() -> None:
    _collected_everywhere("inline")


def _collected_with_a_thread() -> None:
    _collected_everywhere("thread")


@pytest.mark.parametrize("function", [_collected_inline, _collected_with_a_thread])
def test_participants_in_cycles_may_be_collected_anywhere(function: Any) -> None:
    """F23: with `gc.set_threshold(1)`: no deadlock, no move in the middle of a move, nothing left in the end."""
    done = run_isolated(function, timeout=60, interpreter_args=["-W", "ignore::ResourceWarning"])

    assert done.stderr == ""
    assert done.stdout.startswith("refused ")


# --- signal handlers --------------------------------------------------------------------------------------------------


def _handlers_in_the_middle_of_moves() -> None:
    """A handler runs at a chosen point inside the books: releases and closings are left for later, claims refused."""
    clock = FakeClock()
    tracker = Tracker(MIB, clock=clock)
    account = tracker.new_account("a")
    outside, other, doomed = (ScriptedParticipant(account, clock) for _ in range(3))
    for participant in (outside, other, doomed):
        participant.participation.claim(50_000)
    account.claim(700)
    said: list[str] = []

    def handler(number: int, frame: FrameType | None) -> None:
        other.participation.release(20_000)
        outside.participation.release(10_000)  # of the very handle that is claiming
        doomed.participation.close()
        account.release(300)
        for call in (other.participation.claim, account.claim):
            try:
                call(30_000)
            except UsageError as error:
                said.append(str(error))
        assert other.participation.used == 50_000  # what is deferred is not booked yet

    signal.signal(signal.SIGUSR1, handler)
    ledger: Any = tracker._books.ledger
    move = ledger._move

    def interrupted(*args: Any) -> Any:
        del ledger._move
        moved = move(*args)
        os.kill(os.getpid(), signal.SIGUSR1)
        return moved

    ledger._move = interrupted
    outside.participation.claim(60_000)

    text = "called in the middle of a move of this very thread, by a signal handler or a finalizer"
    assert said == [text, text]
    assert outside.participation.used == 100_000
    assert other.participation.used == 30_000
    assert account.used < 140_000
    assert_books_balance(tracker, 130_400)


def test_a_handler_inside_the_books_is_served_later_or_refused() -> None:
    """F43, P6: no deadlock, and what it released and closed is booked when the move is over."""
    run_isolated(_handlers_in_the_middle_of_moves)


def _handler_that_does_not_catch() -> None:
    """The UsageError of a claim in a handler comes out of the call that was interrupted, whose move is torn."""
    clock = FakeClock()
    tracker, elsewhere = Tracker(MIB, clock=clock), Tracker(1000, hard_limit=1000, clock=clock)
    account, full = tracker.new_account("a"), elsewhere.new_account("full")
    participant = ScriptedParticipant(account, clock)
    participant.participation.claim(50_000)
    child = account.new_child("child")

    for call in (lambda: participant.participation.claim(60_000), lambda: full.claim(2000)):
        signal.signal(signal.SIGUSR1, lambda *_, call=call: call())
        ledger: Any = tracker._books.ledger
        move = ledger._move

        def interrupted(holding: Any, size: int, cap: int, move: Any = move, ledger: Any = ledger) -> Any:
            del ledger._move
            move(holding, size, cap)  # the sums are changed, and nothing else
            os.kill(os.getpid(), signal.SIGUSR1)

        ledger._move = interrupted
        with pytest.raises(MemoryQuotaError):
            child.claim(60_000)
        assert InThread(lambda: tracker.used).result() == account.used
        assert_books_balance(tracker, 50_000)
        ledger._move = interrupted
        with pytest.raises(MemoryQuotaError):
            participant.participation.release(40_000)
        assert_books_balance(tracker, 50_000)


def test_an_error_of_ours_that_a_handler_raises_in_the_middle_is_no_refusal() -> None:
    """F43: whatever its class, the books are made whole."""
    run_isolated(_handler_that_does_not_catch)


def _handler_storm() -> None:
    """Handlers that use the very handle that they interrupt, at any point of any call, fast path and slow."""
    clock = FakeClock()
    tracker = Tracker(MIB, clock=clock)
    account = tracker.new_account("a")
    participant = ScriptedParticipant(account, clock)
    part = participant.participation
    extra = 0
    handled = 0
    handling = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal extra, handled, handling
        if handling:  # it is interrupted itself
            return
        handling = True
        handled += 1
        if extra:
            part.release(extra)
            extra = 0
        else:
            try:
                part.claim(300)
                extra = 300
            except UsageError:
                pass
        handling = False

    sys.setswitchinterval(1e-6)
    stop = False

    def work_elsewhere() -> None:
        mine = account.register_participant(elsewhere)
        while not stop:
            mine.claim(40_000)
            mine.release(40_000)

    elsewhere = ScriptedParticipant(account, clock)
    thread = threading.Thread(target=work_elsewhere)
    thread.start()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    held = 0
    random.seed(7)
    sizes = [random.choice((50, 100, 1000, 30_000)) for _ in range(64)]
    while handled < 4000:
        for size in sizes:
            part.claim(size)
            held += size
        for size in sizes:
            part.release(size)
            held -= size
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    stop = True
    thread.join()

    assert held == 0
    assert part.used == extra, (part.used, extra)
    part.close()
    elsewhere.participation.close()
    assert_books_balance(tracker)
    assert tracker.used == 0


def test_handlers_may_claim_and_release_with_the_handle_that_they_interrupt() -> None:
    """F43: nothing is lost and nothing is counted twice."""
    run_isolated(_handler_storm, timeout=60)
