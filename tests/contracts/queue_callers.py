"""Queues of every kind behind one face: between threads, between tasks of asyncio and trio, and as anyio streams."""

import asyncio
import math
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from memquota import Account, AsyncQueue, Queue, QueueShutDown, ShutDown, Tracker, open_stream

KINDS = ("threads", "asyncio", "trio", "stream-asyncio", "stream-trio")
MODES = ("collapse", "drop_oldest")

#: What the kinds raise for the same thing.
FULL = (queue.Full, asyncio.QueueFull, anyio.WouldBlock)
EMPTY = (queue.Empty, asyncio.QueueEmpty, anyio.WouldBlock)
NO_MORE = (ShutDown, QueueShutDown, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)

# Nothing takes this long, in seconds.
WATCHDOG = 30.0


class Waiting:
    """Somebody who puts or gets, and may have to wait."""

    def __init__(self) -> None:
        self.finished = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self.give_up: Callable[[], object] = lambda: None

    def run(self, action: Callable[[], Any]) -> None:
        try:
            self._value = action()
        except BaseException as error:
            self._error = error
        self.finished.set()

    async def run_async(self, action: Callable[[], Any]) -> None:
        try:
            self._value = await action()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self.finished.set()

    @property
    def error(self) -> BaseException | None:
        """What was raised; waits for the end."""
        assert self.finished.wait(WATCHDOG), "it waits for ever"
        return self._error

    def result(self) -> Any:
        """What it got, or what was raised."""
        if self.error is not None:
            raise self.error
        return self._value


class User:
    """One queue, and those who use it."""

    def __init__(self, kind: str, portal: BlockingPortal | None, account: Account, maxsize: int, **options: Any):
        self.kind = kind
        self.portal = portal
        self._threads: list[threading.Thread] = []
        if kind == "threads":
            self._queue: Any = Queue(account, maxsize, **options)
        elif kind.startswith("stream"):
            self._send, self._receive = open_stream(account, maxsize or math.inf, **options)
        else:
            self._queue = AsyncQueue(account, maxsize, **options)

    def call(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run something where the queue lives: in its event loop, if it has one."""
        return action(*args) if self.portal is None else self.portal.call(action, *args)

    @property
    def buffer(self) -> Any:
        """The part that every kind has."""
        return self._send._shared if self.kind.startswith("stream") else self._queue

    # Those with a underscore are called where the queue lives.

    def _put_nowait(self, item: object) -> None:
        (self._send.send_nowait if self.kind.startswith("stream") else self._queue.put_nowait)(item)

    def _get_nowait(self) -> Any:
        return (self._receive.receive_nowait if self.kind.startswith("stream") else self._queue.get_nowait)()

    def put_nowait(self, item: object) -> None:
        self.call(self._put_nowait, item)

    def get_nowait(self) -> Any:
        return self.call(self._get_nowait)

    def put(self, item: object) -> Waiting:
        """Begin to put; return when that is done, or waits in the line."""
        put = self._send.send if self.kind.startswith("stream") else self._queue.put
        return self._start(lambda: put(item), "waiting_to_put")

    def get(self) -> Waiting:
        """Begin to get; return when that is done, or waits in the line."""
        get = self._receive.receive if self.kind.startswith("stream") else self._queue.get
        return self._start(get, "waiting_to_get")

    def _start(self, action: Callable[[], Any], line: str) -> Waiting:
        waiting = Waiting()
        before = getattr(self.statistics(), line)
        if self.portal is None:
            thread = threading.Thread(target=waiting.run, args=(action,), daemon=True)
            thread.start()
            self._threads.append(thread)
        else:
            future: Future[None] = self.portal.start_task_soon(waiting.run_async, action)
            waiting.give_up = future.cancel
        until(lambda: waiting.finished.is_set() or getattr(self.statistics(), line) > before)
        return waiting

    def shut_down(self) -> None:
        """Let nothing in any more."""
        if self.kind.startswith("stream"):
            self.call(self._send.close)
        else:
            self.call(self._queue.shutdown)

    def abandon(self) -> None:
        """Let nothing in any more, and give up what is inside."""
        if self.kind.startswith("stream"):
            self.call(self._close_both)
        else:
            self.call(self._queue.shutdown, True)

    def _close_both(self) -> None:
        self._receive.close()
        self._send.close()

    def statistics(self) -> Any:
        return (self._send if self.kind.startswith("stream") else self._queue).statistics()

    def drain(self) -> list[Any]:
        """Everything that is inside."""
        found = []
        while self.statistics().items:
            found.append(self.get_nowait())
        return found

    def end(self) -> None:
        """Nobody waits any more."""
        for thread in self._threads:
            thread.join(WATCHDOG)
            assert not thread.is_alive(), "a thread still waits"
        if self.kind.startswith("stream"):
            self.call(self._close_both)


def until(true: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    pause = threading.Event()
    for _ in range(int(WATCHDOG * 1000)):
        if true():
            return
        pause.wait(0.001)
    raise AssertionError("it never came about")


class Kind:
    """Makes queues of one kind."""

    def __init__(self, name: str, portal: BlockingPortal | None) -> None:
        self.name = name
        self.portal = portal
        self.users: list[User] = []

    def __call__(self, account: Account | Tracker, maxsize: int = 0, **options: Any) -> User:
        if isinstance(account, Tracker):
            account = account.new_account()
        user = User(self.name, self.portal, account, maxsize, **options)
        self.users.append(user)
        return user

    def end(self) -> None:
        for user in self.users:
            user.end()
        self.users.clear()

    def __repr__(self) -> str:
        return self.name


@contextmanager
def of_kind(name: str) -> Iterator[Kind]:
    if name == "threads":
        made = Kind(name, None)
        yield made
        made.end()
        return
    with start_blocking_portal(name.removeprefix("stream-")) as portal:
        made = Kind(name, portal)
        yield made
        made.end()
