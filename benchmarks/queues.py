"""What a put and a get cost: `python -m benchmarks.queues`.

Each queue against the one whose interface it has, which counts nothing, at three sizes of items.
"""

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Any

import anyio

from benchmarks.harness import Row, TimedLock, compared, loop, measured, quiet, race, show, time_text
from memquota import AsyncQueue, Queue, Tracker, open_stream
from memquota.queues import OnReclaim
from memquota.queues.buffer import Buffer

#: Bytes of an item.
SIZES = (64, 1024, 65536)

#: Items of the queue that is dropped, and for how long that may hold up anybody at a stretch, in seconds.
MANY = 1_000_000
STRETCH = 0.005


def size_text(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size // 1024} KiB"


def pairs(size: int) -> dict[str, Callable[[int], float]]:
    """A put and a get of each queue and of its peer. Must run where an event loop runs."""
    tracker = Tracker("1GiB")
    item = bytes(size)
    send, receive = open_stream(tracker.new_account())
    peer_send, peer_receive = anyio.create_memory_object_stream[bytes](1_000_000)
    nowait = "queue.put_nowait(item); queue.get_nowait()"
    waiting = "queue.put(item); queue.get()"
    stream = "send.send_nowait(item); receive.receive_nowait()"
    bounded: asyncio.Queue[bytes] = asyncio.Queue(100)
    return {
        "AsyncQueue": loop(nowait, queue=AsyncQueue(tracker.new_account()), item=item),
        "asyncio.Queue": loop(nowait, queue=asyncio.Queue(), item=item),
        "AsyncQueue(100)": loop(nowait, queue=AsyncQueue(tracker.new_account(), 100), item=item),
        "asyncio.Queue(100)": loop(nowait, queue=bounded, item=item),
        "Queue": loop(waiting, queue=Queue(tracker.new_account()), item=item),
        "queue.Queue": loop(waiting, queue=queue.Queue(), item=item),
        "open_stream": loop(stream, send=send, receive=receive, item=item),
        "memory object stream": loop(stream, send=peer_send, receive=peer_receive, item=item),
    }


async def raced(size: int) -> dict[str, list[float]]:
    return race(pairs(size))


#: Ours, the peer, the bar.
BARS: tuple[tuple[str, str, float | None], ...] = (
    ("AsyncQueue", "asyncio.Queue", 1.2),
    ("AsyncQueue(100)", "asyncio.Queue(100)", None),
    ("Queue", "queue.Queue", 0.7),
    ("open_stream", "memory object stream", 2.0),
)


def drops() -> Iterator[Row]:
    """How long giving up much holds up whoever does it, at a stretch, and the lock."""
    for how in ("collapse", "drop_oldest", "shutdown"):
        tracker = Tracker("4GiB")
        mode: OnReclaim = "drop_oldest" if how == "drop_oldest" else "collapse"
        waiting = AsyncQueue[int](tracker.new_account(), cost=lambda item: 100, on_reclaim=mode)
        for number in range(MANY):
            waiting.put_nowait(number)
        lock = TimedLock(tracker)
        with quiet(), longest_calls(Buffer, "reclaim", "_end", "_give_up") as calls:
            if how == "shutdown":
                waiting.shutdown(immediate=True)
            else:
                tracker.reclaim(0)
        lock.stop()
        assert not waiting.qsize()
        wait_for_freeing()
        yield measured(f"{how} of {MANY:,} items: a call", max(calls), STRETCH, time_text)
        yield measured(f"{how} of {MANY:,} items: the lock is held", lock.longest, STRETCH, time_text)


@contextmanager
def longest_calls(kind: type[Any], *methods: str) -> Iterator[list[float]]:
    """Notes the processor time of each call of some methods of a class."""
    times: list[float] = []
    originals = {method: getattr(kind, method) for method in methods}

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = thread_time()
            try:
                return original(*arguments)
            finally:
                times.append(thread_time() - started)

        return call

    for method, original in originals.items():
        setattr(kind, method, timed(original))
    try:
        yield times
    finally:
        for method, original in originals.items():
            setattr(kind, method, original)


def wait_for_freeing() -> None:
    """Until the threads are done that free what was given up."""
    for thread in threading.enumerate():
        if thread.name == "memquota-free":
            thread.join()


def rows(full: bool = False) -> Iterator[Row]:
    """Every line of the queues on this interpreter."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for size in SIZES:
        times = asyncio.run(raced(size))
        for ours, peer, bar in BARS:
            yield compared(f"{ours} put + get, {size_text(size)}, {python}", times[ours], peer, times[peer], bar)
    yield from drops()


if __name__ == "__main__":
    show(rows)
