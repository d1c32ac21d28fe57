"""Account: what is reclaimed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, final

from memquota._core.accounts import add_parent, open_account, reconfigure
from memquota._core.events import CloseKind, CloseReason
from memquota._core.graph import AccountNode
from memquota._core.holdings import Receipt
from memquota._core.limits import KEEP, Keep, Limits
from memquota._handles import (
    Handle,
    ParticipantRef,
    Registration,
    checked_priority,
    checked_size,
    closed_error,
    participant_ref,
    place_of_call,
    recall_excess,
    refuse_coroutine_function,
)
from memquota._rounds import Rounds
from memquota._telling import CloseCallback
from memquota.errors import UsageTypeError, UsageValueError
from memquota.observe.log import log_callback_failure
from memquota.participant import Participant
from memquota.participation import Participation, new_handle
from memquota.sizes import parse_size

if TYPE_CHECKING:
    from memquota.tracker import Tracker

__all__ = ["Account"]

T = TypeVar("T")


@final
class Account(Handle):
    """What is reclaimed together: a node in a graph, with several parents and children if need be.

    Made by `Tracker.new_account` and `new_child`. It is open as long as somebody holds it: when it is dropped it
    closes, with a ResourceWarning that names where it was opened if something was still claimed. It keeps its tracker
    and its parents, but not its children; a participation does not keep it.

    Threads:
        Any; every call takes the tracker's lock, about 3 µs. `close` and `release` may be called from finalizers and
        signal handlers.
    """

    __slots__ = ("__weakref__", "_node", "_parents", "_rounds", "_tracker")
    _node: AccountNode
    _parents: tuple[Account, ...]
    _rounds: Rounds
    _tracker: Tracker

    def __init__(self) -> None:
        raise TypeError("accounts are made by Tracker.new_account and Account.new_child")

    # --- the graph ----------------------------------------------------------------------------------------------------

    def new_child(
        self,
        name: str | None = None,
        *,
        limit: int | str | None = None,
        hard_limit: int | str | None = None,
        minimum: int | str = 0,
        priority: int = 0,
    ) -> Account:
        """Open an account below this one: it is asked whenever this one is, not vice versa.

        Args:
            name: For people; need not be unique. None: a number.
            limit: Bytes: above it the subtree of this account alone is asked, down to 75 %. None: no own limit.
            hard_limit: Bytes: never exceeded; claims that would are refused.
            minimum: Bytes: at or below it the account is not chosen as a victim; it still goes with a parent that is.
            priority: Larger is asked later.

        Raises:
            UsageError: A wrong argument; nothing was opened.
            AccountClosed: This account is closed.
        """
        return open_new(self._tracker, self._rounds, self._node, (self,), name, limit, hard_limit, minimum, priority)

    def add_parent(self, parent: Account) -> None:
        """Put this account below another one too.

        Raises:
            UsageError: It would be above itself, is below that parent already, or belongs to another tracker.
            AccountClosed: One of them is closed.
            QuotaExceeded: A hard limit above the new parent has no room.

        Approximate:
            Credit that handles below got under larger limits counts there too, until each releases something.

        Cost:
            The accounts below and above.
        """
        if not isinstance(parent, Account):
            raise UsageTypeError(f"a parent must be an account, not {parent!r}")
        if parent._rounds is not self._rounds:
            raise UsageValueError(f"account {parent.name!r} belongs to another tracker than {self.name!r}")
        self._rounds.books.enter(self._add_parent, parent)
        self._rounds.relieve(None)

    def register_participant(self, participant: Participant) -> Participation:
        """Register an object that holds memory. It is held weakly.

        Returns:
            The handle to claim and release with. The participant should hold it: the participation ends with it.

        Raises:
            UsageError: It has no `oldest_data` or `reclaim`, supports no weak references, or is asynchronous where the
                tracker's reclaimer is not. Nothing was registered.
            AccountClosed: The account is closed.
        """
        registration = Registration(self._node)
        reference = self._refer(participant, registration)
        handle = self._rounds.books.enter(self._register, registration)
        registration.participant = reference
        return handle

    def register_participant_with(self, make: Callable[[Participation], T]) -> T:
        """Make a participant that owns its handle: `make` gets the handle and returns the participant.

        Raises:
            UsageError: `make` cannot be called; else as for `register_participant`.
            AccountClosed: The account is closed.
            Exception: What `make` raises passes through. In each case nothing stays registered.
        """
        if not callable(make):
            raise UsageTypeError(f"register_participant_with takes a callable, not {make!r}")
        registration = Registration(self._node)
        handle = self._rounds.books.enter(self._register, registration)
        try:
            participant = make(handle)
            registration.participant = self._refer(participant, registration)
        except BaseException:
            handle.destroy()
            raise
        return participant

    # --- bytes --------------------------------------------------------------------------------------------------------

    def claim(self, size: int) -> None:
        """Claim bytes for the account itself, for code that has no data structure of its own.

        They are as old as the earliest claim not given back. As a victim the account closes, and the `on_close`
        callbacks are what tells.

        Raises:
            UsageError: `size` is no integer, negative, or above 2**62. Nothing was claimed.
            QuotaExceeded: A hard limit refuses. Nothing was claimed.
            AccountClosed: The account is closed; MemoryReclaimed when it gave up its memory, perhaps in the round that
                this claim started. Nothing was claimed.

        Callbacks:
            As for `Participation.claim`; participants of this very account are called too, so hold no lock of theirs.

        Cost:
            One lock; memory for each claim that is not given back.
        """
        size = checked_size(size, "claim")
        books = self._rounds.books
        receipt = Receipt()
        now = books.now()
        try:
            strained = books.enter(self._book, size, now, receipt)
            if size and (strained or self._rounds.round is not None):
                self._rounds.relieve(None)
                if self._node.ended is not None:
                    raise closed_error(self._node)
        except BaseException:
            if receipt.booked:
                undo = partial(self._take_back, now)
                books.give_back(undo, undo, size)
            raise

    def release(self, size: int) -> None:
        """Give back what the account claimed itself, the oldest first. Does nothing when the account is closed.

        Raises:
            UsageError: `size` is no integer or negative; or more than is claimed, on a strict tracker.
        """
        size = checked_size(size, "release")
        self._rounds.books.give_back(self._give_back, self._give_back, size)

    @contextmanager
    def claimed(self, size: int) -> Iterator[None]:
        """Claim bytes for the length of a with block. Errors as for `claim`; leaving releases whatever happens."""
        self.claim(size)
        try:
            yield
        finally:
            self.release(size)

    @property
    def used(self) -> int:
        """What it and every descendant hold, each once, in bytes. Up to 1/32 of the limit too much."""
        self._rounds.books.settle()
        return self._node.used if self._node.ended is None else 0

    # --- configuration ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self._node.name

    @property
    def tracker(self) -> Tracker:
        """The tracker that it belongs to."""
        return self._tracker

    @property
    def limit(self) -> int | None:
        """Its own limit in bytes, None without one."""
        scope = self._node.scope
        return scope.limits.limit if scope is not None else None

    @property
    def hard_limit(self) -> int | None:
        """Its own hard limit in bytes, None without one."""
        scope = self._node.scope
        return scope.limits.hard_limit if scope is not None else None

    @property
    def minimum(self) -> int:
        """At or below this many bytes it is not chosen as a victim."""
        return self._node.minimum

    @property
    def priority(self) -> int:
        """Larger is asked later."""
        return self._node.priority

    def reconfigure(
        self,
        *,
        limit: int | str | Keep | None = KEEP,
        hard_limit: int | str | Keep | None = KEEP,
        minimum: int | str | Keep = KEEP,
        priority: int | Keep = KEEP,
    ) -> None:
        """Change what was given, all at once. A limit below the present usage starts a round.

        Raises:
            UsageError: A wrong argument; everything is as before.
            AccountClosed: The account is closed.

        Approximate:
            Credit that handles got under a larger limit, or without one, counts until each releases something.
        """
        sizes = [
            value if value is KEEP or value is None else parse_size(value, what=what)
            for value, what in ((limit, "limit"), (hard_limit, "hard limit"))
        ]
        least = minimum if minimum is KEEP else parse_size(minimum, what="minimum")
        order = priority if priority is KEEP else checked_priority(priority)
        self._rounds.books.enter(self._reconfigure, sizes[0], sizes[1], least, order)
        self._rounds.relieve(None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def on_close(self, callback: Callable[[CloseReason], object]) -> Callable[[], None]:
        """Have `callback(reason)` called once when the account closes, at once if it is closed already.

        The tracker holds the callback until then. Returns a function that takes it back.

        Raises:
            UsageError: It cannot be called, or is a coroutine function.

        Callbacks:
            Called with no lock held, in the thread that closed the account or entered the books next. What it raises is
            logged.
        """
        if not callable(callback):
            raise UsageTypeError(f"on_close takes a callable, not {callback!r}")
        refuse_coroutine_function(callback, "a callback of on_close")
        return self._call_at_end(callback)

    def _call_at_end(
        self, callback: Callable[[CloseReason], object], *, restartable: bool = False
    ) -> Callable[[], None]:
        # Its own entry, as the same callback may be given twice, and callbacks are not compared.
        entry = CloseCallback(callback, self._node, restartable=restartable)
        reason = self._rounds.books.enter(self._on_close, entry)
        if reason is not None:
            try:
                callback(reason)
            except Exception:
                log_callback_failure("on_close", self.name)
        books = self._rounds.books
        return lambda: books.soon(books.forget_callback, entry)  # which does not keep this account

    def close(self) -> None:
        """Close it with all its descendants and write off what they hold. Does nothing the second time."""
        books = self._rounds.books
        books.soon(books.close, self._node, CloseKind.CLOSED, "closed by hand", books.now())

    @property
    def closed(self) -> bool:
        """Whether claims fail."""
        return self.close_reason is not None

    @property
    def close_reason(self) -> CloseReason | None:
        """Why and when it was closed; None while it is open."""
        self._rounds.books.settle()
        return self._node.ended

    def __repr__(self) -> str:
        return f"<Account {self.name!r}{', closed' if self._node.ended is not None else ''}>"

    def __del__(self) -> None:
        # Uses no global name: they may be gone at exit. Appends a note, as a finalizer may run anywhere.
        node = getattr(self, "_node", None)
        if node is not None and node.ended is None:
            self._rounds.books.notes.append(node)

    # --- under the lock -----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._node.ended is not None:
            raise closed_error(self._node)

    def _add_parent(self, parent: Account) -> None:
        self._check_open()
        parent._check_open()
        parents = (*self._parents, parent)
        add_parent(self._rounds.books.ledger, self._node, parent._node)
        self._parents = parents
        recall_excess(self._node)

    def _refer(self, participant: object, registration: Registration) -> ParticipantRef:
        # Lock: not held. Looks at a foreign object.
        rounds = self._rounds
        return participant_ref(participant, registration, rounds.books.note, awaited=rounds.reclaimer.asynchronous)

    def _register(self, registration: Registration) -> Participation:
        self._check_open()
        handle = new_handle(self._rounds, registration)
        self._rounds.books.ledger.register(registration)
        handle._closed = False
        return handle

    def _book(self, size: int, now: float, receipt: Receipt) -> bool:
        self._check_open()
        return self._rounds.books.ledger.claim_own(self._node, size, now, receipt) if size else False

    def _give_back(self, size: int) -> None:
        if self._node.ended is None:
            self._rounds.books.ledger.release_own(self._node, size)

    def _take_back(self, claimed_at: float, size: int) -> None:
        # What is left of a claim: its own round may have taken some, and no error may hide what interrupted it.
        own = self._node.own
        if own is not None and self._node.ended is None:
            self._rounds.books.ledger.release_own(self._node, min(size, own.booked), claimed_at)

    def _reconfigure(
        self, limit: int | Keep | None, hard_limit: int | Keep | None, minimum: int | Keep, priority: int | Keep
    ) -> None:
        self._check_open()
        old = self._node.scope.limits if self._node.scope is not None else None
        new_limit = (old.limit if old is not None else None) if limit is KEEP else limit
        new_hard = (old.hard_limit if old is not None else None) if hard_limit is KEEP else hard_limit
        limits = None if new_limit is None and new_hard is None else Limits(new_limit, None, new_hard)
        least = self._node.minimum if minimum is KEEP else minimum
        order = self._node.priority if priority is KEEP else priority
        reconfigure(self._rounds.books.ledger, self._node, limits, least, order)
        recall_excess(self._node)

    def _on_close(self, entry: CloseCallback) -> CloseReason | None:
        if self._node.ended is None:
            self._rounds.books.on_close.setdefault(self._node, []).append(entry)
        return self._node.ended


def open_new(
    tracker: Tracker,
    rounds: Rounds,
    parent: AccountNode,
    parents: tuple[Account, ...],
    name: str | None,
    limit: int | str | None,
    hard_limit: int | str | None,
    minimum: int | str,
    priority: int,
) -> Account:
    """Open an account below another one, or below the root."""
    if name is not None and not isinstance(name, str):
        raise UsageTypeError(f"an account's name must be text, not {name!r}")
    limits = None
    if limit is not None or hard_limit is not None:
        limits = Limits(
            None if limit is None else parse_size(limit, what="limit"),
            None,
            None if hard_limit is None else parse_size(hard_limit, what="hard limit"),
        )
    least = minimum if type(minimum) is int and minimum == 0 else parse_size(minimum, what="minimum")
    order = checked_priority(priority)
    opened_at = place_of_call()
    account = object.__new__(Account)
    account._tracker = tracker
    account._rounds = rounds
    account._parents = parents

    def open_it() -> None:
        if parent.ended is not None:
            raise closed_error(parent)
        rounds.opened += 1
        label = str.__str__(name) if name is not None else f"account-{rounds.opened}"  # no subclass, no foreign code
        account._node = open_account(
            rounds.books.ledger, label, parent, limits=limits, minimum=least, priority=order, opened_at=opened_at
        )

    rounds.books.enter(open_it)
    return account
