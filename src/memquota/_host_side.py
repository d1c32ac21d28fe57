"""What a tracker has to do with the host's memory: a limit that follows it, and how far it is from what was claimed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from memquota._books import Books
from memquota._core.accounts import close_account
from memquota._core.drift import AccountReconciled, Drift, DriftBand
from memquota._core.events import CloseKind, CloseReason
from memquota._core.graph import AccountNode
from memquota._handles import Handle
from memquota._quota import Following, Quota, provider_or_error
from memquota._rounds import Rounds
from memquota._ticker import Ticker, checked_interval
from memquota.account import Account
from memquota.errors import TrackerClosed, UsageError, UsageTypeError, UsageValueError
from memquota.observe.log import Trouble

if TYPE_CHECKING:
    from memquota.host import Provider

__all__ = ["HostSide"]

#: Of the limit. Below: a claim that is not given back leaks sooner or later. Above: a limit of 75 % of a container
#: leaves a third of itself for what is not counted, and this tells before that is gone.
_BAND: Final = (-0.1, 0.25)


class HostSide(Handle):
    """The part of a tracker that knows of the host; `Tracker` sets the attributes."""

    __slots__ = ("_books", "_drift", "_quota", "_rounds", "_tickers")
    _books: Books
    _drift: Drift | None
    _quota: Quota
    _rounds: Rounds
    _tickers: set[Ticker]

    def follow(self, provider: Provider, *, every: float = 1.0) -> Callable[[], None]:
        """Move the limit with the effective limit that a provider tells, as when a container is resized.

        The limit stays what was given: "auto", or the same percentage. A low water and a hard limit that were given in
        bytes keep their proportion to it. While readings fail everything stays as it is, which is logged once. It ends
        when the tracker is closed, or with the next call of this method.

        Args:
            provider: What to follow, such as `memquota.host.detect()`. It is not closed in the end.
            every: Seconds between two looks, of real time.

        Returns:
            A function that ends it; the limit stays what it is then.

        Raises:
            UsageError: A wrong argument, or the limit was given in bytes, so that nothing could move it.
            TrackerClosed: The tracker is closed.

        Threads:
            Looks now, then in one daemon thread. A limit below the present usage is a matter for the next claim with
            `reclaimer="inline"`; the others run the round at once. A forked child has no such thread: follow anew.

        Cost:
            A reading for each look; a limit that changes costs what it does in `reconfigure`.
        """
        following = Following(self._rounds, self._quota, provider)
        every = checked_interval(every)
        self._books.enter(self._begin_to_follow, following)
        if following.look():
            self._rounds.relieve(None)
        return self._until_closed(Ticker(following.tick, every, "memquota-follow"), following.let_go)

    def _begin_to_follow(self, following: Following) -> None:
        # Lock: held.
        self._check_open()
        if self._quota.share is None:
            name = self._books.ledger.root.name
            raise UsageError(f"the limit of tracker {name!r} was given in bytes: give 'auto' or a percentage")
        self._quota.following = following

    def _until_closed(self, ticker: Ticker, let_go: Callable[[], object]) -> Callable[[], None]:
        """Let a thread end with the tracker; returns what ends it by hand."""
        self._tickers.add(ticker)  # in place, and one at a time: another thread may do the same now
        for other in tuple(self._tickers):
            if not other.alive:
                self._tickers.discard(other)
        if self._books.closed:  # in this very moment
            ticker.tell_to_end()

        def end() -> None:
            let_go()
            ticker.end()

        return end

    def _check_open(self) -> None:
        if self._books.closed:
            raise TrackerClosed(f"tracker {self._books.ledger.root.name!r} is closed")

    def _end_tickers(self) -> None:
        """Let the threads end; waits for none."""
        for ticker in tuple(self._tickers):
            ticker.tell_to_end()

    # --- drift --------------------------------------------------------------------------------------------------------

    def drift(self, provider: Provider | None = None) -> Drift:
        """What is claimed against what is really used, now. `statistics` keeps the last one.

        Args:
            provider: Whose `used` is the real use, such as `memquota.host.detect()`: that of the whole control group.
                None: the resident size of this process.

        Raises:
            ReadingUnavailable: The real use cannot be told now.

        Cost:
            Some microseconds.

        Approximate:
            What is not claimed is used as well: the interpreter, modules, what the allocator keeps. A difference says
            something when it moves.
        """
        if provider is None:
            from memquota.host import resident_size  # costs a while, and only those pay who ask

            real, source = resident_size(), "resident size"
        else:
            reading = provider_or_error(provider).read()
            real, source = reading.used, f"{reading.source} {reading.level}"
        books = self._books
        books.settle()
        root = books.ledger.root
        nominal = root.used if root.ended is None else 0
        self._drift = drift = Drift(nominal, real, books.ledger.root_scope.limits.bound, source, books.now())
        return drift

    def watch_drift(
        self, band: tuple[float, float] = _BAND, *, provider: Provider | None = None, every: float = 10.0
    ) -> Callable[[], None]:
        """Tell by an event (and a line in the log) when the drift's share leaves a band, and when it is back.

        It alerts and does nothing else. While the real use cannot be told nothing happens, which is logged once. It
        ends when the tracker is closed.

        Args:
            band: Difference of real and nominal use, as a part of the limit: lower and upper edge. Back is an eighth of
                the width inside.
            provider: As for `drift`. It is not closed in the end.
            every: Seconds between two looks, of real time.

        Returns:
            A function that ends it.

        Raises:
            UsageError: A wrong argument.
            TrackerClosed: The tracker is closed.

        Threads:
            Looks now, then in one daemon thread, which calls the hooks. A forked child has no such thread.
        """
        judge = DriftBand(band)
        every = checked_interval(every)
        if provider is not None:
            provider_or_error(provider)
        self._check_open()
        watch = _DriftWatch(self, judge, provider)
        watch.look()
        return self._until_closed(Ticker(watch.look, every, "memquota-drift"), lambda: None)

    def reconcile(self, account: Account) -> int:
        """Write off an account whose claims leaked: nobody is left who would give them back.

        The account closes with all its descendants, with an event of its own and a warning in the log; statistics count
        it. Releases that come after all do nothing, claims raise AccountClosed.

        Returns:
            The bytes that are claimed no more; 0 when it was closed already.

        Raises:
            UsageError: It is no account of this tracker.
        """
        if not isinstance(account, Account):
            raise UsageTypeError(f"what is reconciled is an account, not {account!r}")
        if account._rounds is not self._rounds:
            raise UsageValueError(f"account {account.name!r} belongs to another tracker")
        return self._books.enter(self._reconcile, account._node, self._books.now())

    def _reconcile(self, node: AccountNode, now: float) -> int:
        # Lock: held.
        if node.ended is not None:
            return 0
        ledger = self._books.ledger
        before = ledger.root.used
        close_account(ledger, node, CloseReason(CloseKind.WRITTEN_OFF, node.name, "written off by hand", now))
        freed = before - ledger.root.used
        ledger.counts.reconciled += 1
        ledger.counts.reconciled_bytes += freed
        ledger.events.append(AccountReconciled(node.name, freed, ledger.root.used, now))
        return freed


class _DriftWatch:
    """Looks at the drift of a tracker, which it does not keep alive."""

    def __init__(self, tracker: HostSide, band: DriftBand, provider: Provider | None) -> None:
        self._tracker = weakref.ref(tracker)
        self._band = band
        self._provider = provider
        name = tracker._books.ledger.root.name
        self._trouble = Trouble(f"{name}: the drift is unknown", f"{name}: the drift is known again")

    def look(self) -> bool:
        """Measure, and tell when the edge is crossed; whether to go on."""
        tracker = self._tracker()
        if tracker is None:
            return False
        try:
            drift = tracker.drift(self._provider)
        except Exception as error:  # whatever a provider does
            self._trouble.begins(error)
            return True
        self._trouble.ends()
        event = self._band.judge(drift)
        if event is not None:
            tracker._books.enter(tracker._books.ledger.events.append, event)
        return True
