"""What a claim and a release cost: `python -m benchmarks.fast_path`."""

import sys
from collections.abc import Iterator
from threading import BoundedSemaphore, Lock

from benchmarks.harness import Row, compared, loop, race, show
from memquota import Account, Participation, Reclaimed, ReclaimRequest, Tracker

#: A claim's size in bytes. Above 256, so that the numbers are not those that the interpreter keeps ready.
SIZE = 1000


class Idle:
    """A participant that is never asked."""

    def oldest_data(self) -> None:
        return None

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        return Reclaimed.COLLAPSING


class Empty:
    """Two methods that do nothing."""

    __slots__ = ()

    def claim(self, size: int) -> None:
        pass

    def release(self, size: int) -> None:
        pass


class Locked:
    """The two methods of a participation as they are, under a lock."""

    __slots__ = ("_cap", "_credit", "_lock")

    def __init__(self) -> None:
        self._credit = 8192
        self._cap = 16384
        self._lock = Lock()

    def claim(self, size: int) -> None:
        with self._lock:
            if type(size) is not int or size < 0 or (left := self._credit - size) < 0:
                raise ValueError
            self._credit = left

    def release(self, size: int) -> None:
        with self._lock:
            if type(size) is not int or size < 0 or (credit := self._credit + size) > self._cap:
                raise ValueError
            self._credit = credit


def with_credit(account: Account, participant: Idle) -> Participation:
    """A handle whose next claims and releases stay within its credit."""
    handle = account.register_participant(participant)
    handle.claim(SIZE)
    handle.release(SIZE)
    assert handle._credit >= SIZE
    return handle


def rows(full: bool = False) -> Iterator[Row]:
    """Every line of the fast path on this interpreter."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    tracker = Tracker("1GiB")
    account = tracker.new_account("account")
    participants = [Idle() for _ in range(3)]
    cached = with_credit(account, participants[0])
    uncached = account.register_participant(participants[1])
    second = uncached.clone()  # of several handles none has credit
    streamed = with_credit(account, participants[2])

    both = "handle.claim(size); handle.release(size)"
    stream = "for _ in items: handle.claim(size)\n        for _ in items: handle.release(size)"
    items = range(64)
    times = race(
        {
            "cached": loop(both, handle=cached, size=SIZE),
            "empty": loop(both, handle=Empty(), size=SIZE),
            "locked": loop(both, handle=Locked(), size=SIZE),
            "semaphore": loop("semaphore.acquire(); semaphore.release()", semaphore=BoundedSemaphore(4)),
            "uncached": loop(both, handle=uncached, size=SIZE),
            "account": loop(both, handle=account, size=SIZE),
            "stream": loop(stream, handle=streamed, size=SIZE, items=items),
            "empty stream": loop(stream, handle=Empty(), size=SIZE, items=items),
        }
    )
    assert not second.closed
    yield compared(f"claim + release, with credit, {python}", times["cached"], "empty pair", times["empty"], 3.0)
    yield compared(f"claim + release, with credit, {python}", times["cached"], "with Lock()", times["locked"], 0.35)
    for name, what in (
        ("cached", "claim + release, with credit"),
        ("uncached", "claim + release, through the books"),
        ("account", "Account.claim + release"),
    ):
        yield compared(f"{what}, {python}", times[name], "BoundedSemaphore", times["semaphore"])
    yield compared(f"64 claims, then 64 releases, {python}", times["stream"], "empty", times["empty stream"])


if __name__ == "__main__":
    show(rows)
