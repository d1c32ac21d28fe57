"""How often a provider is asked, how long its last word holds, and from which threads."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import host
from memquota.host import cached
from memquota.testing import FakeClock
from tests.support.watchdog import run_isolated


class Counting:
    """A fixed provider that counts who asks it."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = 0
        self.inner = host.FixedProvider(1000)

    def read(self) -> host.MemoryReading:
        self.asked += 1
        return self.inner.read()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def source() -> Counting:
    return Counting()


@pytest.fixture
def provider(source: Counting, clock: FakeClock) -> Iterator[host.CachedProvider]:
    with host.CachedProvider(source, clock=clock) as provider:
        yield provider


def test_a_provider_is_asked_at_most_every_100_ms(
    provider: host.CachedProvider, source: Counting, clock: FakeClock
) -> None:
    first = provider.read()
    clock.advance(0.0999)
    assert provider.read() is first
    assert source.asked == 1

    clock.advance(0.0002)
    assert provider.read() is not first
    assert source.asked == 2


def test_the_last_reading_holds_for_5_s_and_then_it_is_unknown(
    provider: host.CachedProvider, source: Counting, clock: FakeClock
) -> None:
    """F45: the last good value for 5 s, then unknown; never 0."""
    good = provider.read()
    source.inner.fail("gone")

    clock.advance(5.0)
    assert provider.read() is good
    clock.advance(0.2)
    with pytest.raises(host.ReadingUnavailable, match=r"^no memory reading: gone$"):
        provider.read()


def test_a_failure_is_not_asked_for_more_often_either(
    provider: host.CachedProvider, source: Counting, clock: FakeClock
) -> None:
    source.inner.fail()

    for _ in range(3):
        with pytest.raises(host.ReadingUnavailable):
            provider.read()
    assert source.asked == 1


def test_readings_return_when_the_provider_does(
    provider: host.CachedProvider, source: Counting, clock: FakeClock
) -> None:
    source.inner.fail()
    with pytest.raises(host.ReadingUnavailable):
        provider.read()

    source.inner.set(used=10)
    clock.advance(0.1)
    assert provider.read().used == 10


def test_a_fault_in_a_provider_is_a_failed_reading(clock: FakeClock) -> None:
    class Faulty:
        def read(self) -> host.MemoryReading:
            raise ZeroDivisionError("a fault")

    with pytest.raises(host.ReadingUnavailable, match="no memory reading: a fault") as caught:
        host.CachedProvider(Faulty(), clock=clock).read()

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_clock_that_goes_backwards_asks_again(
    provider: host.CachedProvider, source: Counting, clock: FakeClock
) -> None:
    """F33: a clock that is set back neither freezes readings nor keeps an old one for ever."""
    provider.read()
    clock.advance(-3600.0)

    provider.read()
    assert source.asked == 2
    source.inner.fail()
    clock.advance(-3600.0)
    with pytest.raises(host.ReadingUnavailable):
        provider.read()


@given(st.lists(st.tuples(st.floats(0, 8), st.booleans()), max_size=30))
def test_readings_are_never_older_than_allowed(steps: list[tuple[float, bool]]) -> None:
    clock, source = FakeClock(1000.0), Counting()
    source.inner = host.FixedProvider(1000, clock=clock)
    provider = host.CachedProvider(source, clock=clock)
    asked_at = [-1.0]
    for pause, fails in steps:
        clock.advance(pause)
        if fails:
            source.inner.fail()
        else:
            source.inner.set()
        before = source.asked
        try:
            age = clock() - provider.read().time
        except host.ReadingUnavailable:
            age = 0.0
        if source.asked > before:
            assert clock() - asked_at[-1] >= 0.1
            asked_at.append(clock())
        assert age <= 5.0


def test_who_finds_another_thread_reading_takes_the_last_reading(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "_PATIENCE", 3600.0)  # nobody waits for the other thread
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Counting):
        def read(self) -> host.MemoryReading:
            if self.asked == 1:
                entered.set()
                assert go_on.wait(30)
            return super().read()

    source = Slow()
    provider = host.CachedProvider(source, clock=clock)
    first = provider.read()
    clock.advance(1.0)
    other = threading.Thread(target=provider.read)
    other.start()
    assert entered.wait(30)

    assert provider.read() is first  # the other thread is inside

    go_on.set()
    other.join()
    assert source.asked == 2
    assert provider.read() is not first


def test_who_waited_for_another_threads_reading_takes_that_one(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "_PATIENCE", 30.0)
    entered, waits = threading.Event(), threading.Event()

    class Slow(Counting):
        def read(self) -> host.MemoryReading:
            entered.set()
            assert waits.wait(30)
            return super().read()

    class Lock:
        """Says when somebody is about to wait for the one who holds it."""

        def __init__(self) -> None:
            self.inner = threading.Lock()

        def acquire(self, timeout: float) -> bool:
            if self.inner.locked():
                waits.set()
            return self.inner.acquire(timeout=timeout)

        def release(self) -> None:
            self.inner.release()

    source = Slow()
    provider = host.CachedProvider(source, clock=clock)
    provider._lock = Lock()  # type: ignore[assignment]
    readings: list[host.MemoryReading] = []
    other = threading.Thread(target=lambda: readings.append(provider.read()))
    other.start()
    assert entered.wait(30)

    mine = provider.read()

    other.join()
    assert readings == [mine]
    assert source.asked == 1


def test_many_threads_that_want_to_know_ask_once(clock: FakeClock) -> None:
    source = Counting()
    provider = host.CachedProvider(source, clock=clock)
    barrier = threading.Barrier(8)

    def want() -> None:
        barrier.wait()
        provider.read()

    for round_ in range(1, 20):
        clock.advance(1.0)
        threads = [threading.Thread(target=want) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert source.asked == round_


def test_a_reading_from_within_the_provider_does_not_hang(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """F43: a signal handler may interrupt a reading and want one itself."""
    monkeypatch.setattr(cached, "_PATIENCE", 0.01)
    inside: list[object] = []

    class Interrupted(Counting):
        def read(self) -> host.MemoryReading:
            try:
                inside.append(asked.read())
            except host.ReadingUnavailable as error:
                inside.append(str(error))
            return super().read()

    asked = host.CachedProvider(Interrupted(), clock=clock)

    first = asked.read()
    clock.advance(1.0)
    asked.read()
    assert inside == ["another thread has been reading for too long", first]


def test_a_forked_child_reads_although_a_thread_was_reading() -> None:
    """F41: the child starts with a fresh lock."""
    run_isolated("""
        import os, threading, warnings
        from memquota import host

        warnings.simplefilter("ignore")  # 3.12 warns of forking with threads
        entered, go_on = threading.Event(), threading.Event()

        class Slow(host.FixedProvider):
            def read(self):
                if threading.current_thread() is not threading.main_thread():
                    entered.set()
                    go_on.wait()
                return super().read()

        provider = host.CachedProvider(Slow(100))
        thread = threading.Thread(target=provider.read)
        thread.start()
        entered.wait()
        child = os.fork()
        if not child:
            os._exit(provider.read().limit)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 100
        go_on.set()
        thread.join()
    """)


def test_closing_ends_readings_and_may_be_repeated(source: Counting) -> None:
    provider = host.CachedProvider(source)
    provider.read()

    with provider:
        pass
    provider.close()

    with pytest.raises(host.ReadingUnavailable, match=r"^the provider is closed$"):
        provider.read()
    assert source.closed == 2


def test_a_source_without_close_is_closed_too() -> None:
    provider = host.CachedProvider(host.FixedProvider(1))

    provider.close()

    with pytest.raises(host.ReadingUnavailable):
        provider.read()


def test_a_failure_keeps_no_frames_alive(clock: FakeClock) -> None:
    class Big:
        pass

    class Failing:
        seen: weakref.ref[Big]

        def read(self) -> host.MemoryReading:
            big = Big()
            self.seen = weakref.ref(big)
            raise host.ReadingUnavailable("no")

    source = Failing()
    provider = host.CachedProvider(source, clock=clock)
    with pytest.raises(host.ReadingUnavailable):
        provider.read()
    gc.collect()

    assert source.seen() is None
