"""What a gate costs when it is free and when a thousand wait: `python -m benchmarks.gates`."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from threading import BoundedSemaphore, Thread
from time import monotonic, thread_time
from typing import Any

import anyio

from benchmarks.harness import Row, Times, compared, loop, quiet, race, show
from memquota import AsyncGate, Gate, Tracker

#: A weight in bytes.
WEIGHT = 4096
WAITERS = 1000


def async_loop_body(statement: str, **names: Any) -> Callable[[range], Coroutine[Any, Any, float]]:
    """A coroutine function that runs the statement for each of a range and returns the seconds that took."""
    namespace: dict[str, Any] = {"_clock": thread_time}
    exec(
        f"async def run(_repeats, {', '.join(names)}):\n"
        "    _started = _clock()\n"
        "    for _ in _repeats:\n"
        f"        {statement}\n"
        "    return _clock() - _started\n",
        namespace,
    )
    return partial(namespace["run"], **names)


def async_loop(statement: str, **names: Any) -> Callable[[int], float]:
    """As `loop`, in a loop of asyncio."""
    body = async_loop_body(statement, **names)
    return lambda repeats: asyncio.run(body(range(repeats)))


def limiter_loop(repeats: int) -> float:
    """The same for a CapacityLimiter, which has to be made in its loop."""

    async def run() -> float:
        times = async_loop_body("async with limiter: pass", limiter=anyio.CapacityLimiter(4))
        return await times(range(repeats))

    return asyncio.run(run())


def free_rows() -> Iterator[Row]:
    """Nobody waits, and there is room."""
    gate = Gate(Tracker("1GiB"), max_concurrent=4)
    threads = race(
        {
            "gate": loop("with acquire(): pass", acquire=gate.acquire),
            "weighted": loop("with acquire(weight): pass", acquire=gate.acquire, weight=WEIGHT),
            "semaphore": loop("with semaphore: pass", semaphore=BoundedSemaphore(4)),
        }
    )
    peer = "BoundedSemaphore"
    yield compared("gate, threads: acquire + release, free", threads["gate"], peer, threads["semaphore"], 1.0)
    yield compared("the same with a weight, claimed and released", threads["weighted"], peer, threads["semaphore"])
    async_gate = AsyncGate(sharing=gate)
    tasks = race(
        {
            "gate": async_loop("async with acquire(): pass", acquire=async_gate.acquire),
            "weighted": async_loop("async with acquire(weight): pass", acquire=async_gate.acquire, weight=WEIGHT),
            "semaphore": async_loop("async with semaphore: pass", semaphore=asyncio.Semaphore(4)),
            "limiter": limiter_loop,
        }
    )
    yield compared("gate, async: acquire + release, free", tasks["gate"], "asyncio.Semaphore", tasks["semaphore"], 1.5)
    yield compared("the same with a weight", tasks["weighted"], "asyncio.Semaphore", tasks["semaphore"])
    yield compared("gate, async: acquire + release, free", tasks["gate"], "anyio.CapacityLimiter", tasks["limiter"])


def contended_rows(rounds: int = 7) -> Iterator[Row]:
    """A thousand wait for one slot and pass it on; for each of them."""
    peers: dict[str, Callable[[], Any]] = {
        "asyncio.Semaphore": lambda: asyncio.Semaphore(1),
        "anyio.CapacityLimiter": lambda: anyio.CapacityLimiter(1),
    }
    with quiet():
        for peer, make in peers.items():
            ours: Times = []
            theirs: Times = []
            for _ in range(rounds):
                ours.append(asyncio.run(crowd(lambda: AsyncGate(Tracker("1GiB"), max_concurrent=1), "acquire")))
                theirs.append(asyncio.run(crowd(make)))
            yield compared(f"{WAITERS} tasks wait for one slot, for each", ours, peer, theirs)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(thread_crowd(Gate(Tracker("1GiB"), max_concurrent=1).acquire))
            semaphore = BoundedSemaphore(1)
            theirs.append(thread_crowd(lambda semaphore=semaphore: semaphore))  # type: ignore[misc]
        yield compared(f"{WAITERS} threads wait for one slot, for each", ours, "BoundedSemaphore", theirs)


async def crowd(make: Callable[[], Any], method: str | None = None) -> float:
    """Seconds for each of many tasks that all want to go in at once."""
    door = make()

    async def one_of_them() -> None:
        async with door if method is None else getattr(door, method)():
            await asyncio.sleep(0)

    started = thread_time()
    await asyncio.gather(*(one_of_them() for _ in range(WAITERS)))
    return (thread_time() - started) / WAITERS


def thread_crowd(enter: Callable[[], Any]) -> float:
    """Seconds for each of many threads that wait for one slot, from when it is given back."""

    def one_of_them() -> None:
        with enter():
            pass

    with enter():
        threads = [Thread(target=one_of_them) for _ in range(WAITERS)]
        for thread in threads:
            thread.start()
        started = monotonic()
    for thread in threads:
        thread.join()
    return (monotonic() - started) / WAITERS


def rows(full: bool = False) -> Iterator[Row]:
    """Every line about gates."""
    yield from free_rows()
    yield from contended_rows()


if __name__ == "__main__":
    show(rows)
