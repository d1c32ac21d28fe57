"""open_stream: a pair of anyio object streams on a memory quota."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, final

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    TypedAttributeSet,
    WouldBlock,
    typed_attribute,
)
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from anyio.lowlevel import checkpoint
from attrs import asdict

from memquota._core.events import CloseReason
from memquota._handles import Handle
from memquota.account import Account
from memquota.queues.bounds import buffer_bound
from memquota.queues.buffer import OnReclaim, raised_here
from memquota.queues.costs import ENTRY_COST, Cost, cost_of
from memquota.queues.statistics import StreamStatistics
from memquota.queues.tasks import TaskBuffer

__all__ = ["QuotaReceiveStream", "QuotaSendStream", "StreamAttribute", "open_stream"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


def open_stream(
    account: Account,
    max_buffer_size: float = math.inf,
    *,
    max_bytes: int | str | None = None,
    cost: Cost | None = None,
    on_reclaim: OnReclaim = "collapse",
    on_drop: Callable[[int, int], object] | None = None,
    on_collapse: Callable[[CloseReason], object] | None = None,
) -> tuple[QuotaSendStream[Any], QuotaReceiveStream[Any]]:
    """Open a stream between tasks, like `anyio.create_memory_object_stream`, whose items are on an account's books.

    Args:
        account: Where its items are claimed. The stream keeps it open.
        max_buffer_size: Most items inside; 0 makes a rendezvous: an item goes in only where somebody waits for it.
        max_bytes: Most bytes inside, by cost with entries; None for no such bound.
        cost: What an item costs in bytes, without its entry; None for `memquota.queues.item_cost`.
        on_reclaim: What to do when asked for memory: "collapse" or "drop_oldest".
        on_drop: Called with the number and bytes of items that "drop_oldest" dropped.
        on_collapse: Called once with the reason when the account closes, whatever closes it.

    Returns:
        The end to send by and the end to receive by. Each can be cloned, and has to be closed; one that is dropped
        instead is closed with a ResourceWarning.

    Raises:
        UsageError: A wrong argument.
        AccountClosed: The account is closed.

    Threads:
        One event loop, of asyncio or trio. The tracker may reclaim from any thread.

    Callbacks:
        `cost` is called by `send`; `on_drop` and `on_collapse` by whoever runs the round, from any thread, with no lock
        held.
    """
    bound = buffer_bound(max_buffer_size)
    shared: Stream[Any] = Stream(account, bound, max_bytes, cost, on_reclaim, on_drop, on_collapse)
    return QuotaSendStream(shared), QuotaReceiveStream(shared)


class StreamAttribute(TypedAttributeSet):
    """What can be asked of an end by `extra`, also where others wrap it."""

    #: The account on whose books its items are.
    account: Account = typed_attribute()
    #: The stream in numbers.
    statistics: StreamStatistics = typed_attribute()


class Stream(TaskBuffer[T]):
    """What both ends have in common."""

    __slots__ = ("_receivers", "_senders")

    def __init__(self, account: Account, max_items: float, *options: Any) -> None:
        # The ends that are open, by their ids: single steps on a set, as a finalizer may close an end in any thread.
        self._senders: set[int] = set()
        self._receivers: set[int] = set()
        super().__init__(account, max_items, *options)

    def _fits(self, cost: int) -> bool:
        if super()._fits(cost):
            return True
        getters = self._getters
        return getters.first() is not None and len(self._items) < len(getters.waiters) and self._has_bytes_for(cost)

    def _lets_nothing_in(self) -> bool:
        return not self._receivers

    def _check_put(self) -> None:
        self._check_over()
        if not self._receivers:
            raise BrokenResourceError

    def statistics(self) -> StreamStatistics:
        """The stream in numbers."""
        return StreamStatistics(
            **asdict(self._statistics(len(self._putters), len(self._getters))),
            max_buffer_size=self._max_items,
            open_send_streams=len(self._senders),
            open_receive_streams=len(self._receivers),
        )

    def _receive_from_waiting(self) -> T:
        """Take what the first of those brings who wait to send."""
        first = self._putters.first()
        if first is None or first.offer is None:
            raise WouldBlock
        item: T = first.offer[0]
        first.taken, first.offer = True, None
        try:
            self._putters.waiters.remove(first)
            self._adjust()
        finally:
            try:
                first.wake()
            except MemoryError:  # it is woken with those in the line, then
                self._putters.missed = True
                self._putters.waiters.appendleft(first)
        return item

    def _close_sender(self, end: int) -> None:
        self._senders.discard(end)
        self._putters.wake_all()
        if not self._senders:
            self._getters.wake_all()
            self._close_if_unused()

    def _close_receiver(self, end: int) -> None:
        self._receivers.discard(end)
        self._getters.wake_all()
        if not self._receivers:
            self._limit, self._bounded = 0, True
            self._putters.wake_all()
            self._give_up()
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._senders and not self._receivers:
            self._retire()


class StreamEnd(Handle):
    """What both kinds of ends can do."""

    __slots__ = ("_closed", "_shared")

    def __init__(self, shared: Stream[Any]) -> None:
        self._shared = shared
        self._closed = False
        self._open()

    def _open(self) -> None:
        """Be one of the stream's ends."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Be none of them any more."""
        raise NotImplementedError

    def clone(self) -> Self:
        """Another end of the same stream. What closing does to the other side, the last one does.

        Raises:
            ClosedResourceError: This end is closed.
        """
        if self._closed:
            raise ClosedResourceError
        return type(self)(self._shared)

    def close(self) -> None:
        """Close this end. Does nothing the second time; a task that waits in it gets ClosedResourceError."""
        if not self._closed:
            self._leave()
            self._closed = True  # last: whoever is interrupted can do it again

    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
        self.close()
        await checkpoint()

    def statistics(self) -> StreamStatistics:
        """The stream in numbers."""
        return self._shared.statistics()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """What `extra` finds: see `StreamAttribute`."""
        shared = self._shared
        return {StreamAttribute.account: lambda: shared._account, StreamAttribute.statistics: shared.statistics}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            text = f"unclosed {self!r}"
            self.close()
            warnings.warn(text, ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        shared = self._shared
        closed = ", closed" if self._closed else ""
        return f"<{type(self).__name__} of {len(shared._items)} in account {shared._account.name!r}{closed}>"


@final
class QuotaSendStream(StreamEnd, ObjectSendStream[T_contra]):
    """The end of a stream to send by; made by `open_stream` and `clone`. Receivers see the end when all are closed."""

    __slots__ = ()

    def _open(self) -> None:
        self._shared._senders.add(id(self))

    def _leave(self) -> None:
        self._shared._close_sender(id(self))

    def send_nowait(self, item: T_contra) -> None:
        """Send an item without waiting. Never overtakes a `send` that waits.

        Raises:
            WouldBlock: There is no room, or others wait for it.
            ClosedResourceError: This end is closed. BrokenResourceError: nobody is left to receive.
            UsageError: The item alone is above `max_bytes`.
            QuotaExceeded: A hard limit refuses.
            MemoryReclaimed: The account gave up its memory, perhaps for this very item. AccountClosed: it is closed.
            Exception: What the cost function raises passes through.
            In each case nothing was sent.
        """
        if self._closed:
            raise ClosedResourceError
        # See Content for the order of these steps.
        shared = self._shared
        cost = len(item) + ENTRY_COST if type(item) is shared._plain else cost_of(item, shared._cost)  # type: ignore[arg-type]
        entry = (item, cost, shared._clock())
        items = shared._items
        part = shared._part
        if (shared._bounded and (len(items) >= shared._limit or items is not shared._items)) or (
            left := (credit := part._credit) - cost
        ) < 0:
            if not shared._put_carefully(item, cost):
                raise WouldBlock
            return
        part._credit = left
        try:
            items.append(entry)
        except MemoryError as error:
            if raised_here(error):
                part._credit = credit
            raise

    async def send(self, item: T_contra) -> None:
        """Send an item, after those who wait already. Errors as for `send_nowait`, but for WouldBlock.

        Cancellation:
            A checkpoint. When it is cancelled, nothing was sent and its place goes to the next.
        """
        await checkpoint()
        self._check()
        shared = self._shared
        cost = cost_of(item, shared._cost)
        inside = shared._put_carefully(item, cost)
        again = False
        while not inside:
            turn = shared._putters.turn(
                lambda: shared._fits(cost), self._check, shared._adjust, self, (item,), first=again
            )
            inside = not await turn or shared._take_in(item, cost)
            again = True

    def _check(self) -> None:
        if self._closed:
            raise ClosedResourceError
        self._shared._check_put()


@final
class QuotaReceiveStream(StreamEnd, ObjectReceiveStream[T_co]):
    """The end of a stream to receive by; made by `open_stream` and `clone`. Each item goes to one of them.

    When all are closed, what is inside is given up and senders get BrokenResourceError.
    """

    __slots__ = ()

    def _open(self) -> None:
        self._shared._receivers.add(id(self))
        self._shared._adjust()

    def _leave(self) -> None:
        self._shared._close_receiver(id(self))

    def receive_nowait(self) -> T_co:
        """Receive the oldest item without waiting, or what the first of those brings who wait to send.

        Raises:
            WouldBlock: There is none.
            ClosedResourceError: This end is closed. EndOfStream: there is none, and all ends to send by are closed.
            MemoryReclaimed: The account gave up its memory. AccountClosed: it is closed.
        """
        if self._closed:
            raise ClosedResourceError
        shared = self._shared
        # See Content for the order of these steps.
        items = shared._items
        line = shared._out
        try:
            entry = items[0]
        except IndexError:
            found = None
        else:
            credit = line._credit + entry[1]
            if credit <= line._cap:
                del items[0]
                line._credit = credit
                return entry[0]  # type: ignore[no-any-return]
            found = shared._take_out()
        if found is None:
            self._check()
            return shared._receive_from_waiting()  # type: ignore[no-any-return]
        return found[0]  # type: ignore[no-any-return]

    async def receive(self) -> T_co:
        """Receive the oldest item, after those who wait already. Errors as for `receive_nowait`, but for WouldBlock.

        Cancellation:
            A checkpoint. When it is cancelled, nothing was received and its place goes to the next.
        """
        await checkpoint()
        shared = self._shared
        again = False
        while True:
            if again or not shared._getters.waiters:
                try:
                    return self.receive_nowait()
                except WouldBlock:  # there is none, or another thread dropped it in this very moment
                    pass
            turn = shared._getters.turn(self._has_items, self._check, shared._adjust, self, first=again)
            await turn
            again = True

    def _has_items(self) -> bool:
        return bool(self._shared._items)

    def _check(self) -> None:
        if self._closed:
            raise ClosedResourceError
        shared = self._shared
        shared._check_over()
        if not shared._senders and not shared._items:
            raise EndOfStream
