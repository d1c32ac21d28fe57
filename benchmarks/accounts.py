"""What accounts and participations cost in great numbers: `python -m benchmarks.accounts`."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from time import monotonic, thread_time

from benchmarks.harness import Row, TimedLock, compared, measured, quiet, show, time_text
from memquota import Account, Participation, Reclaimed, ReclaimRequest, Tracker

KIB = 1024
MILLION = 1_000_000

#: What a linear cost may grow by for each account when there are ten times as many: they leave the processor's caches.
LINEAR = 2.0


class Holder:
    """A participant with an account of its own."""

    __slots__ = ("__weakref__", "account", "head", "participation")
    account: Account
    participation: Participation
    head: float | None

    def oldest_data(self) -> float | None:
        return self.head

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        return Reclaimed.COLLAPSING


def bytes_text(size: float) -> str:
    return f"{size:,.0f} B"


# --- memory -------------------------------------------------------------------------------------------------------


def memory_rows(participants: int = 20_000) -> Iterator[Row]:
    """What one more participant with an account of its own takes."""
    tracker = Tracker("1TiB")
    everybody = [Holder() for _ in range(participants)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for one in everybody:
            one.account = tracker.new_account()
            one.participation = one.account.register_participant(one)
        idle, _ = tracemalloc.get_traced_memory()
        for one in everybody:
            one.participation.claim(KIB)
        holding, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    yield measured("idle participant with its own account", (idle - before) / participants, KIB, bytes_text)
    yield measured("the same when it holds bytes", (holding - before) / participants, None, bytes_text)


# --- many accounts, long chains -------------------------------------------------------------------------------------


def side_by_side(count: int) -> tuple[Tracker, list[Account]]:
    """Accounts that have claimed something."""
    tracker = Tracker("1TiB")
    accounts = [tracker.new_account("account") for _ in range(count)]
    for account in accounts:
        account.claim(KIB)
    return tracker, accounts


def chain(count: int) -> tuple[Tracker, list[Account]]:
    """Accounts each below the one before. The last one keeps the others open."""
    tracker = Tracker("1TiB")
    accounts = [tracker.new_account("account")]
    for _ in range(count - 1):
        accounts.append(accounts[-1].new_child("account"))
    return tracker, accounts


def opening(count: int) -> float:
    started = thread_time()
    kept = [side_by_side(count)]
    took = thread_time() - started
    kept.clear()
    return took


def closing(count: int) -> float:
    tracker, accounts = side_by_side(count)
    started = thread_time()
    for account in accounts:
        account.close()
    assert tracker.used == 0
    return thread_time() - started


def closing_tracker(count: int) -> float:
    tracker, accounts = side_by_side(count)
    started = thread_time()
    tracker.close()
    took = thread_time() - started
    assert accounts[-1].closed
    return took


def opening_chain(count: int) -> float:
    started = thread_time()
    kept = [chain(count)]
    kept[0][1][-1].claim(KIB)
    took = thread_time() - started
    kept.clear()
    return took


def closing_chain(count: int) -> float:
    _, accounts = chain(count)
    accounts[-1].claim(KIB)
    started = thread_time()
    accounts[0].close()
    took = thread_time() - started
    assert accounts[-1].closed
    return took


def freeing_chain(count: int) -> float:
    freed, closed, _ = freeing_and_closing_chain(count)
    return freed + closed


def freeing_and_closing_chain(count: int) -> tuple[float, float, float]:
    """How long dropping it takes; the next call, which closes its accounts; and how long that holds the lock."""
    tracker, accounts = chain(count)
    del accounts[:-1]
    lock = TimedLock(tracker)
    started = thread_time()
    accounts.clear()
    dropped = thread_time()
    assert tracker.statistics().accounts == 0
    closed = thread_time()
    lock.stop()
    return dropped - started, closed - dropped, lock.longest


def growth_rows() -> Iterator[Row]:
    """What each account costs, against a tenth of the number."""
    todo: list[tuple[str, int, Callable[[int], float]]] = [
        ("open an account and claim, of 100,000", 100_000, opening),
        ("close an account, of 100,000", 100_000, closing),
        ("close a tracker, for each of its 100,000 accounts", 100_000, closing_tracker),
        ("open a chain of 10,000 and claim, an account", 10_000, opening_chain),
        ("close a chain of 10,000 by its top, an account", 10_000, closing_chain),
        ("free a chain of 10,000, an account", 10_000, freeing_chain),
    ]
    for name, count, act in todo:
        few, many = [], []
        for _ in range(3):
            with quiet():
                few.append(act(count // 10) / (count // 10))
                many.append(act(count) / count)
        yield compared(name, many, f"of {count // 10:,}", few, LINEAR)


# --- a million --------------------------------------------------------------------------------------------------------


def million_rows() -> Iterator[Row]:
    """A million participants, each with an account of its own, and a round among them; then a chain of a million."""
    with quiet():
        tracker = Tracker(MILLION * KIB, low_water=(MILLION - 10) * KIB, strict=True)
        everybody = [Holder() for _ in range(MILLION)]
        started = thread_time()
        for one in everybody:
            one.account = tracker.new_account("account")
        opened = thread_time()
        for one in everybody:
            one.participation = one.account.register_participant(one)
        registered = thread_time()
        for one in everybody:
            one.head = monotonic()
            one.participation.claim(KIB)
        claimed = thread_time()
        lock = TimedLock(tracker)
        everybody[-1].participation.claim(1)
        while tracker.used > tracker.low_water:
            tracker.reclaim()
        done = thread_time()
        lock.stop()
        victims = tracker.statistics().counts.victims
        everybody.clear()
    yield measured("a million participants: register them", registered - opened, 5.0, time_text)
    yield measured("a million participants: accounts and first claims too", claimed - started, 5.0, time_text)
    yield measured(f"a million participants: a round of {victims} victims", done - claimed, 2.0, time_text)
    yield measured("a million participants: hold of the lock", lock.longest, 0.05, time_text)
    with quiet():
        freed, closed, held = freeing_and_closing_chain(MILLION)
    yield measured("a chain of a million accounts: free it", freed, 0.5, time_text)
    yield measured("a chain of a million accounts: the call that closes them", closed, None, time_text)
    yield measured("a chain of a million accounts: hold of the lock", held, 0.05, time_text)


def rows(full: bool = False) -> Iterator[Row]:
    """Every line about accounts; `full` with a million of them."""
    yield from memory_rows()
    yield from growth_rows()
    if full:
        yield from million_rows()


if __name__ == "__main__":
    show(rows)
