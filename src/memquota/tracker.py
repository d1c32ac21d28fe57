"""Tracker: one quota over many structures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from math import inf
from threading import TIMEOUT_MAX
from types import TracebackType
from typing import Literal, Self, cast, final, overload

from anyio import TASK_STATUS_IGNORED, create_task_group
from anyio.abc import TaskStatus

from memquota._books import Books
from memquota._core.accounts import reconfigure
from memquota._core.events import CloseKind, RoundEnded
from memquota._core.ledger import IdleLedger, Ledger
from memquota._core.limits import KEEP, LARGEST_SIZE, Keep, Limits
from memquota._core.plan import ReclaimPlan
from memquota._core.victims import POLICIES, Policy
from memquota._dry_run import dry_run_of
from memquota._handles import recall_excess, refuse_coroutine_function
from memquota._host_side import HostSide
from memquota._quota import Quota, Share, effective_limit, share_of
from memquota._rounds import Demand, Reclaimer, Rounds
from memquota.account import Account, open_new
from memquota.clock import Clock, monotonic
from memquota.errors import TrackerClosed, UsageError, UsageTypeError, UsageValueError
from memquota.observe.hooks import Hook
from memquota.observe.statistics import Statistics, TrackerSnapshot, snapshot, statistics
from memquota.sizes import parse_size

__all__ = ["Tracker", "reclaimer_kinds"]

#: What the names for `Tracker(reclaimer=…)` stand for. `memquota.reclaimers` fills it: imports run downwards only.
reclaimer_kinds: dict[str, Callable[[], Reclaimer]] = {}


@final
class Tracker(HostSide):
    """One quota: a budget, the accounts that live on it, and one lock. Trackers are independent of each other.

    Args:
        limit: Bytes, as an int or as text ("512MiB"). Above it reclamation starts. "80%": of the host's effective
            limit (`memquota.host.limits().effective`). "auto": 75 % of that below 8 GiB and 40 % from there on, at
            least 256 MiB and at most 8 GiB; but never more than 75 % of it, also where that is less than 256 MiB.
        low_water: Bytes at which reclamation stops; None: 75 % of the limit, also when that is changed.
        hard_limit: Bytes that are never exceeded: claims that would are refused. None: no such limit.
        policy: Who is asked first: "oldest_data", "largest", "byte_seconds", or a callable as in `memquota.policies`.
        reclaimer: Who runs a round: "inline" (the claiming thread), "thread", "task", or your own, as in
            `memquota.reclaimers`.
        reclaim_timeout: How long a participant may take to answer, in seconds of real time.
        clock: Returns seconds as a float.
        strict: Release of more than was claimed raises, and handles have no credit, so that it shows where it happens.
        name: For people.

    Raises:
        UsageError: A wrong argument, or a limit in relation to the host's memory where that is unknown.

    Source:
        The rule of "auto" is that of C Tor and arti (see `memquota.host.default_quota`), with one departure: they
        keep to 256 MiB in a container that is smaller, which would be killed before its quota is used up.

    Threads:
        Any. The lock is never held while participants, hooks, callbacks or log handlers run. In a child process after
        `fork` the books are those of the moment of the fork, with a fresh lock.
    """

    __slots__ = ("__weakref__", "_tasks")

    def __init__(
        self,
        limit: int | str,
        *,
        low_water: int | str | None = None,
        hard_limit: int | str | None = None,
        policy: str | Policy = "oldest_data",
        reclaimer: str | Reclaimer = "inline",
        reclaim_timeout: float = 1.0,
        clock: Clock = monotonic,
        strict: bool = False,
        name: str | None = None,
    ) -> None:
        share = share_of(limit)
        limits = Limits(
            parse_size(limit, what="limit") if share is None else share.of(effective_limit(share)),
            None if low_water is None else parse_size(low_water, what="low water"),
            None if hard_limit is None else parse_size(hard_limit, what="hard limit"),
        )
        self._set_up(Ledger(_name(name), limits, strict=strict), policy, reclaimer, reclaim_timeout, clock)
        self._quota.share = share

    def _set_up(
        self, ledger: Ledger, policy: str | Policy, reclaimer: str | Reclaimer, timeout: float, clock: Clock
    ) -> None:
        if not callable(clock):
            raise UsageTypeError(f"a clock must be callable, not {clock!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise UsageTypeError(f"reclaim_timeout must be a number of seconds, not {timeout!r}")
        if not 0 < timeout < inf:
            raise UsageValueError(f"reclaim_timeout must be positive and finite, not {timeout!r}")
        order = _policy(policy)
        runs = _reclaimer(reclaimer)
        self._tasks: AsyncExitStack | None = None
        self._tickers = set()
        self._drift = None
        self._quota = Quota(None, ledger.root_scope.limits)
        self._books = Books(ledger, clock)
        self._rounds = Rounds(self._books, order, runs, float(min(timeout, TIMEOUT_MAX)))
        runs.attach(self._rounds)

    @classmethod
    def disabled(cls, *, name: str | None = None) -> Tracker:
        """A tracker that counts nothing and never reclaims: every claim succeeds, bad arguments are still refused."""
        tracker = cls.__new__(cls)
        ledger = IdleLedger(_name(name), Limits(LARGEST_SIZE))
        tracker._set_up(ledger, "oldest_data", "inline", 1.0, monotonic)
        return tracker

    def new_account(
        self,
        name: str | None = None,
        *,
        parent: Account | None = None,
        limit: int | str | None = None,
        hard_limit: int | str | None = None,
        minimum: int | str = 0,
        priority: int = 0,
    ) -> Account:
        """Open an account. Arguments and errors as for `Account.new_child`.

        Args:
            name: For people; need not be unique. None: a number.
            parent: What it is below; None: nothing but the tracker.
            limit: Bytes: above it the subtree of this account alone is asked. None: no limit of its own.
            hard_limit: Bytes: never exceeded. None: no such limit of its own.
            minimum: Bytes: at or below it the account is not chosen as a victim.
            priority: Larger is asked later.

        Raises:
            TrackerClosed: The tracker is closed.
        """
        if parent is None:
            root = self._books.ledger.root
            return open_new(self, self._rounds, root, (), name, limit, hard_limit, minimum, priority)
        if not isinstance(parent, Account):
            raise UsageTypeError(f"a parent must be an account, not {parent!r}")
        if parent.tracker is not self:
            raise UsageValueError(f"account {parent.name!r} belongs to another tracker")
        return parent.new_child(name, limit=limit, hard_limit=hard_limit, minimum=minimum, priority=priority)

    # --- limits -------------------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Above this many bytes reclamation starts."""
        return self._books.ledger.root_scope.limits.bound

    @property
    def low_water(self) -> int:
        """At or below this many bytes it stops."""
        return self._books.ledger.root_scope.limits.low_water

    @property
    def hard_limit(self) -> int | None:
        """Bytes that are never exceeded; None without a hard limit."""
        return self._books.ledger.root_scope.limits.hard_limit

    def reconfigure(
        self,
        *,
        limit: int | str | Keep = KEEP,
        low_water: int | str | Keep | None = KEEP,
        hard_limit: int | str | Keep | None = KEEP,
    ) -> None:
        """Change limits while running, all at once. A limit below the present usage starts a round.

        Args:
            limit: Bytes, "auto", or a percentage of the effective limit of what is followed, else of the host. In
                bytes, it moves no longer with what is followed.
            low_water: Bytes; None: 75 % of the limit, whatever it is.
            hard_limit: Bytes; None takes it away.

        Raises:
            UsageError: A wrong argument; the limits are as before.
            TrackerClosed: The tracker is closed.

        Approximate:
            Credit that handles got under a larger limit counts until each releases something.

        Cost:
            O(1), or O(participations) where that credit is more than a 32nd of the new limit.
        """
        share: Share | Keep | None = KEEP
        if limit is not KEEP:
            share = share_of(limit)
            limit = parse_size(limit, what="limit") if share is None else share.of(self._quota.effective_limit(share))
        if low_water is not KEEP and low_water is not None:
            low_water = parse_size(low_water, what="low water")
        if hard_limit is not KEEP and hard_limit is not None:
            hard_limit = parse_size(hard_limit, what="hard limit")
        self._books.enter(self._reconfigure, limit, low_water, hard_limit, share)
        self._rounds.relieve(None)

    def _reconfigure(
        self, limit: int | Keep, low_water: int | Keep | None, hard_limit: int | Keep | None, share: Share | Keep | None
    ) -> None:
        # Lock: held.
        self._check_open()
        ledger = self._books.ledger
        root = ledger.root
        limits = ledger.root_scope.limits.changed(limit, low_water, hard_limit)
        reconfigure(ledger, root, limits, root.minimum, root.priority)
        recall_excess(root)
        self._quota.base = limits
        if share is not KEEP:
            self._quota.share = share

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self._books.ledger.root.name

    @property
    def clock(self) -> Clock:
        """The clock by which participants say how old their data is."""
        return self._books._clock

    @property
    def used(self) -> int:
        """What is claimed now, in bytes: at most 1/32 of the limit too much, never too little."""
        self._books.settle()
        return self._books.ledger.root.used if not self._books.closed else 0

    def statistics(self) -> Statistics:
        """The tracker in numbers. O(1)."""
        self._books.settle()
        return self._books.enter(statistics, self._books.ledger, self._rounds.longest, self._drift)

    def snapshot(self) -> TrackerSnapshot:
        """All that is in the books. Holds the lock for O(accounts and participations)."""
        self._books.settle()
        return self._books.enter(snapshot, self._books.ledger, self._rounds.longest, self._drift)

    def subscribe(self, hook: Hook) -> Callable[[], None]:
        """Have `hook(event)` called for everything that happens, until the returned function is called.

        Raises:
            UsageError: It cannot be called, or is a coroutine function.

        Callbacks:
            In the thread in which it happened, with no lock held. A hook that raises is logged and removed.
        """
        refuse_coroutine_function(hook, "a hook")
        return self._books.hooks.subscribe(hook)

    # --- reclamation --------------------------------------------------------------------------------------------------

    @overload
    def reclaim(self, target: int | str | None = None, *, dry_run: Literal[True]) -> ReclaimPlan: ...
    @overload
    def reclaim(self, target: int | str | None = None, *, dry_run: Literal[False] = False) -> RoundEnded | None: ...
    def reclaim(self, target: int | str | None = None, *, dry_run: bool = False) -> ReclaimPlan | RoundEnded | None:
        """Run a round by hand: down to `target` bytes, or to the low water, also when the limit is not passed.

        Args:
            target: Bytes to come down to; None: the low water.
            dry_run: Only tell who would be asked, in which order and why. Asks participants for their age, and
                touches nothing.

        Returns:
            The plan of a dry run; else how the round ended, or None where a task runs it: then it is only requested.

        Raises:
            UsageError: A wrong argument, or called by a participant in the middle of a round.
            TrackerClosed: The tracker is closed.

        Callbacks:
            With the inline reclaimer participants are called in this thread: hold no lock that they need.
        """
        size = None if target is None else parse_size(target, what="target")
        if self._books.closed:
            raise TrackerClosed(f"tracker {self.name!r} is closed")
        if dry_run:
            return dry_run_of(self._rounds, size)
        return self._rounds.run_by_hand(Demand(size))

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run the rounds of a tracker with `reclaimer="task"` until it is closed.

        Raises:
            UsageError: It has another reclaimer, or another task runs it.

        Cancellation:
            Ends the round where it is; nothing is left half done.
        """
        run = getattr(self._rounds.reclaimer, "run", None)
        if run is None:
            raise UsageError(f"tracker {self.name!r} has no reclaimer='task', so there is nothing to run")
        await run(task_status=task_status)

    # --- the end ------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        self._books.settle()
        return self._books.closed

    def close(self) -> None:
        """Close it with all its accounts. Does nothing the second time."""
        books = self._books
        text = f"tracker {self.name!r} was closed"
        books.soon(books.close, books.ledger.root, CloseKind.TRACKER_CLOSED, text, books.now())
        self._rounds.reclaimer.close()
        self._end_tickers()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        """Run the rounds in a task for the length of the block, when the reclaimer is "task"."""
        async with AsyncExitStack() as stack:
            if self._rounds.reclaimer.asynchronous:
                tasks = await stack.enter_async_context(create_task_group())
                await tasks.start(self._run_started)
                stack.callback(tasks.cancel_scope.cancel)
            self._tasks = stack.pop_all()
        return self

    async def _run_started(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        await self.run(task_status=task_status)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.close()
        tasks, self._tasks = self._tasks, None
        try:
            return await tasks.__aexit__(kind, error, trace) if tasks is not None else None
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1 and group.exceptions[0] is error:
                return False  # nobody need know that there is a task group here
            raise

    def __repr__(self) -> str:
        return f"<Tracker {self.name!r}, {self.used} of {self.limit} bytes{', closed' if self.closed else ''}>"

    def __del__(self) -> None:
        rounds = getattr(self, "_rounds", None)
        if rounds is not None:
            rounds.reclaimer.close()
            self._end_tickers()


def _name(name: object) -> str:
    if name is None:
        return "tracker"
    if not isinstance(name, str):
        raise UsageTypeError(f"a tracker's name must be text, not {name!r}")
    return str.__str__(name)  # no subclass: its code would run under the lock


def _policy(policy: object) -> Policy:
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise UsageValueError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
        return POLICIES[policy]
    if not callable(policy):
        raise UsageTypeError(f"a policy must be a name or a callable, not {policy!r}")
    refuse_coroutine_function(policy, "a policy")
    return cast("Policy", policy)


def _reclaimer(reclaimer: object) -> Reclaimer:
    if isinstance(reclaimer, str):
        if reclaimer not in reclaimer_kinds:
            raise UsageValueError(f"no reclaimer {reclaimer!r}; there are {', '.join(reclaimer_kinds)}")
        return reclaimer_kinds[reclaimer]()
    methods = all(callable(getattr(reclaimer, method, None)) for method in ("attach", "wake", "close"))
    if not methods or isinstance(reclaimer, type) or not isinstance(getattr(reclaimer, "asynchronous", None), bool):
        wanted = "a name or have attach, wake, close and asynchronous"
        raise UsageTypeError(f"a reclaimer must be {wanted}, not {reclaimer!r}")
    return cast("Reclaimer", reclaimer)
