"""What a put and a get cost: `python -m benchmarks.queues`.

Each queue against the one whose interface it has, which counts nothing, at three sizes of items.
"""

import asyncio
import queue
import sys
from collections.abc import Callable, Iterator
from threading import Event, Thread
from time import perf_counter, sleep, thread_time

import anyio

from benchmarks.harness import Row, compared, loop, measured, race, show, time_text
from memquota import AsyncQueue, Queue, Tracker, open_stream

#: Bytes of an item.
SIZES = (64, 1024, 65536)

#: Items of the queue that is dropped, and the longest stretch for which others may have to wait, in seconds.
MANY = 500_000
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


def longest_stretch(act: Callable[[], object]) -> tuple[float, float]:
    """How long a thread that wants to run every millisecond had to wait at most while `act` ran, and how long it took.

    Time that the machine gave to other processes is not counted: of two measurements of the wall and of this process
    the smaller one holds.
    """
    longest = 0.0
    ready, done = Event(), Event()

    def watch() -> None:
        nonlocal longest
        ready.set()
        while not done.is_set():
            started = perf_counter()
            sleep(0.001)
            longest = max(longest, perf_counter() - started - 0.001)

    watcher = Thread(target=watch)
    watcher.start()
    ready.wait()
    started = thread_time()
    act()
    took = thread_time() - started
    sleep(0.5)  # what goes on in other threads
    done.set()
    watcher.join()
    return longest, took


def drops() -> Iterator[Row]:
    """How long dropping much holds up the thread that asks, and others."""
    for mode in ("collapse", "drop_oldest"):
        tracker = Tracker("4GiB", low_water=0)
        waiting = AsyncQueue[int](tracker.new_account(), cost=lambda item: 100, on_reclaim=mode)  # type: ignore[arg-type]
        for number in range(MANY):
            waiting.put_nowait(number)
        runner = tracker._rounds
        asked = waiting._buffer.reclaim
        spent: list[float] = []

        def timed(request: object, asked: Callable[..., object] = asked, spent: list[float] = spent) -> object:
            started = thread_time()
            answer = asked(request)
            spent.append(thread_time() - started)
            return answer

        del runner
        longest, _ = longest_stretch(lambda tracker=tracker: tracker.reclaim(0))  # type: ignore[misc]
        yield measured(f"{mode} of {MANY} items, longest wait of others", longest, None, time_text)


def rows(full: bool = False) -> Iterator[Row]:
    """Every line of the queues on this interpreter."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for size in SIZES:
        times = asyncio.run(raced(size))
        for ours, peer, bar in BARS:
            yield compared(f"{ours} put + get, {size_text(size)}, {python}", times[ours], peer, times[peer], bar)


if __name__ == "__main__":
    show(rows)
