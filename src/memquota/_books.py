"""The shell around the books: the one lock, the notes of those who must not wait for it, and what is done after it.

The core decides under the lock; `Books.enter` lets an action in, and carries out what it decided once the lock is free.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from math import fsum, inf
from threading import RLock, get_ident
from typing import Final, TypeVar, TypeVarTuple

from memquota._core.accounts import close_account
from memquota._core.checks import rebuild
from memquota._core.events import CloseKind, CloseReason, Event
from memquota._core.graph import AccountNode
from memquota._core.ledger import Ledger
from memquota._handles import ParticipantRef, Registration
from memquota._telling import CloseCallback, LateWarning, act_on_first, take
from memquota.clock import Clock
from memquota.errors import MemoryQuotaError, UsageError
from memquota.observe.hooks import Hooks
from memquota.observe.log import log_callback_failure, log_event

__all__ = ["Books"]

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

#: Notes that are taken into the books in one hold of the lock: a few milliseconds.
_DRAIN: Final = 256

_IN_A_MOVE: Final = "called in the middle of a move of this very thread, by a signal handler or a finalizer"


_all_books: Final[weakref.WeakSet[Books]] = weakref.WeakSet()


class Books:
    """The ledger of a tracker and its lock.

    Threads:
        `enter` waits for the lock. `soon` does not where somebody is inside: it leaves a note, which whoever is inside
        finds on leaving. A thread that is inside already (a signal handler or a finalizer runs in the middle of a move)
        is refused by `enter`.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.hooks = Hooks()
        self._clock = clock
        self._last_time = -inf
        # Reentrant, so that a signal handler or finalizer of the thread that is inside meets `_inside`, not a deadlock.
        self._lock = RLock()
        self._inside = False
        # Set when an exception tore a move: the next one in derives the sums anew first.
        self._torn = False
        # What finalizers, weak references, and `soon` left. Appending is all they do.
        self.notes: deque[object] = deque()
        # Each participant's weak reference holds this: one for all, as each look at `append` makes another.
        self.note: Callable[[object], None] = self.notes.append
        self._dropped: deque[AccountNode] = deque()
        self.on_close: dict[AccountNode, list[CloseCallback]] = {}
        # The threads that tell others what happened; and whether they moved anything since the watchers looked.
        self._delivering: dict[int, bool] = {}
        # What a round that asked everybody leaves behind, in pieces. One is freed at a time, with the lock free: all of
        # them at once take long, and may run the code of a policy's keys.
        self.spent: deque[object] = deque()
        # Called after every action while somebody waits for room: with no lock held, must not raise.
        self.watchers: dict[Callable[[], object], None] = {}
        # What others have to do in a child process; called before anything else there uses the books.
        self.after_fork: list[Callable[[], None]] = []
        self.now()  # a clock that fails fails at once, and there is always a last look
        _all_books.add(self)

    @property
    def closed(self) -> bool:
        """Whether the whole tracker is."""
        return self.ledger.root.ended is not None

    def now(self) -> float:
        """The time by the tracker's clock, which never goes back: a clock that does, or answers NaN, stands still."""
        time = self._clock()
        if type(time) is not float:  # its own code would run under the lock
            time = fsum((time,))  # takes any number, and no text
        if time > self._last_time:
            self._last_time = time
            return time
        return self._last_time

    def enter(self, action: Callable[[*Ts], R], *args: *Ts) -> R:
        """Run an action on the ledger under the lock, then carry out what it decided.

        Raises:
            UsageError: This thread is inside already; nothing was changed.
        """
        try:
            return self.enter_quietly(action, args)
        finally:
            ledger = self.ledger
            if ledger.events or ledger.ended or self.notes or self._dropped or self.watchers or self.spent:
                self.deliver()

    def enter_quietly(self, action: Callable[[*Ts], R], args: tuple[*Ts]) -> R:
        """The same without carrying anything out: for who holds a lock of his own, and calls `deliver` after it."""
        try:
            with self._lock:  # the interpreter handles signals neither between these lines ...
                if self._inside:
                    raise UsageError(_IN_A_MOVE)
                self._inside = True
                try:
                    if self._torn:
                        rebuild(self.ledger)
                        self._torn = False
                    if self.notes or self._dropped or self.ledger.debris:
                        self._drain()
                    return action(*args)
                except BaseException as error:
                    self._torn = True
                    if _is_refusal(error):
                        self._torn = False
                    raise
                finally:
                    self._inside = False  # ... nor between these: the lock is never left held
        except MemoryError:
            if self._lock._is_owned() and not self._inside:  # type: ignore[attr-defined]
                self._lock.release()  # to leave the block takes memory too: without, nobody does
            raise

    def soon(self, action: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run an action on the ledger: now, or when whoever is inside leaves. Never waits for this thread itself.

        Should an exception from outside interrupt it, it may be run twice.
        """
        if self._inside:
            self._leave(partial(action, *args))
        else:
            self.enter(action, *args)

    def give_back(self, now: Callable[[int], object], later: Callable[[int], object], size: int) -> None:
        """Release bytes: by `now`, or where somebody is inside by `later`, which another thread may run."""
        if self._inside:
            self._leave((later, size))
        else:
            self.enter(now, size)

    def _leave(self, note: object) -> None:
        self.notes.append(note)
        self.settle()  # in case whoever was inside left before seeing the note

    def settle(self) -> None:
        """Take into the books what was left in notes. Cheap when there is nothing."""
        if (self.notes or self._dropped or self._torn) and not self._inside:
            self.enter(_nothing)

    def _drain(self) -> None:
        # Some at a time: `deliver` comes for the others, and lets other threads in between.
        ledger = self.ledger
        for _ in range(min(_DRAIN, len(self.notes))):
            # What can be done twice stays until it is done; the others go first: at worst too much stays booked.
            note = self.notes[0]
            if isinstance(note, ParticipantRef):
                ledger.end(note.registration, "its participant is gone")
                note.registration.cut()
                self.notes.popleft()
            elif isinstance(note, AccountNode):
                self._dropped.append(note)
                self.notes.popleft()
            elif isinstance(note, partial):
                self._act(note)
                self.notes.popleft()
            else:
                self.notes.popleft()
                self._act(note)
        if not self.notes:  # participants that died with their account come before it
            for _ in range(min(_DRAIN, len(self._dropped))):
                self._close_dropped(self._dropped[0])
                self._dropped.popleft()
        if ledger.debris:
            ledger.sweep()

    def _act(self, note: object) -> None:
        if isinstance(note, Registration):  # a handle was dropped
            if note.live:
                self.ledger.drop_handle(note)
            return
        try:
            if isinstance(note, partial):
                note()
            else:
                assert isinstance(note, tuple)
                later, size = note
                later(size)
        except MemoryQuotaError as error:  # strict, but whose fault it was is gone: nobody here is to be blamed
            if not _is_refusal(error):
                raise
            self.ledger.events.append(LateWarning(f"a deferred call failed: {error}"))

    def _close_dropped(self, node: AccountNode) -> None:
        if node.ended is not None:
            return
        left = sum(h.in_use() for h in node.live_holdings())
        if left:
            text = f"account {node.name!r} was dropped with {left} bytes still claimed; close it, or keep it"
            self.ledger.events.append(LateWarning(text, node.opened_at))
        # The time of the last look at the clock, which is foreign code, not to be called under the lock.
        self.close(node, CloseKind.DROPPED, "nobody held it any more", self._last_time)

    def close(self, node: AccountNode, kind: CloseKind, text: str, now: float) -> None:
        """Close an account and its descendants. Under the lock."""
        close_account(self.ledger, node, CloseReason(kind, node.name, text, now))

    def forget_callback(self, entry: CloseCallback) -> None:
        """Call it no more. Under the lock."""
        entry.told = True
        callbacks = self.on_close.get(entry.account, [])
        if entry in callbacks:
            callbacks.remove(entry)

    # --- with the lock free -------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether somebody is inside just now: this very thread, or another."""
        return self._inside

    @property
    def in_a_move(self) -> bool:
        """Whether this very thread is inside: in a signal handler or a finalizer in the middle of a move.

        It must wait for no other lock: whose holder may be waiting for the books.
        """
        return self._inside and bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def refuse_in_a_move(self) -> None:
        """Raises UsageError where this very thread is inside."""
        if self.in_a_move:
            raise UsageError(_IN_A_MOVE)

    def deliver(self, *, moved: bool = True) -> None:
        """Tell callbacks, hooks and the log what happened; whatever they do, nothing comes back from them.

        Args:
            moved: Whether something was moved since the watchers looked, as far as this thread knows.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition asks it
            return  # refused in the middle of a move of this thread, which delivers when it leaves
        me = get_ident()
        delivering = self._delivering  # a child that is forked by whom this tells has another one
        if me in delivering:  # called by one of them: the call further up goes on with it
            if moved:
                delivering[me] = True
            return
        try:
            delivering[me] = moved and bool(self.watchers)
            if self.spent:
                take(self.spent)  # and let go of it
            while True:
                if self.ledger.ended:
                    act_on_first(self.ledger.ended, self._after_close)
                elif self.ledger.events:
                    act_on_first(self.ledger.events, self._tell)
                elif (self.notes or self._dropped) and not self._inside:
                    delivering[me] = True
                    self.enter(_nothing)
                elif delivering[me]:
                    delivering[me] = False
                    for watcher in tuple(self.watchers):
                        watcher()
                else:
                    return
        finally:
            delivering.pop(me, None)

    def _after_close(self, hand: list[AccountNode | None]) -> None:
        (node,) = hand
        assert node is not None
        for holding in list(node.holdings or ()):
            if isinstance(holding, Registration):
                holding.cut()
        # Called when all that ended has been cut, each by itself: what one does takes nothing from the others. Where
        # memory runs out half-way, some are among the events twice, and told once.
        self.ledger.events.extend(self.on_close.get(node, ()))
        self.on_close.pop(node, None)
        hand[0] = None

    def _tell(self, hand: list[Event | None]) -> None:
        (event,) = hand
        if isinstance(event, CloseCallback):
            if not event.told:
                self._call(event)
            hand[0] = None
        elif isinstance(event, LateWarning):
            hand[0] = None
            try:
                event.give()
            except Exception:  # turned into an error, or shown by code that fails: nobody here can be blamed for it
                log_callback_failure("a warning filter", event.text)
        elif event is not None:
            hand[0] = None
            log_event(event, self.ledger.root.name)
            self.hooks.publish(event)

    def _call(self, event: CloseCallback) -> None:
        reason = event.account.ended
        assert reason is not None
        event.told = not event.restartable
        try:
            event.callback(reason)
        except Exception as error:
            if event.restartable and isinstance(error, MemoryError):
                raise
            log_callback_failure("on_close", event.account.name)
        event.told = True

    def _after_fork(self) -> None:
        """In a child process: only the thread that forked goes on. What others were doing is derived anew."""
        self._lock = RLock()
        if self._inside:
            self._inside = False
            self._torn = True
        self._delivering = {}
        for action in self.after_fork:
            action()


def _is_refusal(error: BaseException) -> bool:
    """Whether the books refused before anything was moved: what a signal handler raises in the middle is no refusal."""
    if not isinstance(error, MemoryQuotaError):
        return False
    trace = error.__traceback__
    while trace is not None:  # generated code has no name
        if trace.tb_frame.f_globals.get("__name__", "memquota").partition(".")[0] != "memquota":
            return False
        trace = trace.tb_next
    return True


def _nothing() -> None:
    """Go in for the sake of what is done on the way."""


def _renew_all() -> None:
    for books in list(_all_books):
        books._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
