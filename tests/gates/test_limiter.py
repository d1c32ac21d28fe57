"""The limiter delays in proportion above its threshold, and its reader ends in order."""

import gc
import os
import threading

import anyio
import pytest

from memquota import PressureLimiter, Tracker, UsageError
from memquota.host.readings import FixedProvider
from tests.gates.support import until
from tests.support.watchdog import run_isolated


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memquota pressure limiter"]


@pytest.mark.parametrize(("used", "delay"), [(0, 0.0), (512, 0.0), (768, 0.013), (1024, 0.025), (2048, 0.025)])
def test_the_delay_grows_from_the_threshold_to_full(used: int, delay: float) -> None:
    tracker = Tracker(1024, hard_limit=4096)
    account = tracker.new_account("data", minimum=2**62)
    account.claim(used)

    with PressureLimiter(tracker, threshold=0.5) as limiter:
        assert limiter.delay == pytest.approx(delay)
        assert limiter.share == used / 1024
    account.close()


def test_the_defaults_are_those_of_the_documentation() -> None:
    source = FixedProvider(1000, 950)
    with PressureLimiter(source) as limiter:
        assert limiter.delay == 0.0
    source.set(used=951)
    with PressureLimiter(source) as limiter:
        assert 0.001 < limiter.delay < 0.002
    source.set(used=1000)
    with PressureLimiter(source) as limiter:
        assert limiter.delay == 0.025


async def test_both_waits_wait_and_end() -> None:
    with PressureLimiter(FixedProvider(1000, 1000), shortest=0.0, longest=0.001) as limiter:
        with anyio.fail_after(20):
            await limiter.wait()
        limiter.wait_blocking()
        limiter.close()
        await limiter.wait()
        assert limiter.delay == 0.0


def test_one_thread_reads_for_everybody_until_it_is_closed() -> None:
    source = FixedProvider(1000, 0)
    read = threading.Event()

    class Watched:
        def read(self) -> object:
            if threading.current_thread() in readers():
                read.set()
            return source.read()

    limiter = PressureLimiter(Watched(), every=0.001)  # type: ignore[arg-type]
    for _ in range(100):
        limiter.wait_blocking()
    assert len(readers()) == 1
    source.set(used=1000)
    read.clear()
    assert read.wait(20)
    read.clear()
    assert read.wait(20)
    assert limiter.delay == 0.025

    limiter.close()
    limiter.close()

    assert readers() == []


def test_a_limiter_that_is_dropped_ends_its_thread() -> None:
    limiter = PressureLimiter(FixedProvider(1000, 0), every=3600)
    (reader,) = readers()

    del limiter
    gc.collect()

    reader.join(20)
    assert not reader.is_alive()


def test_a_source_that_fails_delays_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """F45: the last good reading, then none."""
    now = [100.0]
    monkeypatch.setattr("memquota.gates.limiter.monotonic", lambda: now[0])
    source = FixedProvider(1000, 1000)
    with PressureLimiter(source, every=3600) as limiter:
        source.fail()
        limiter._look()
        assert limiter.delay == 0.025
        now[0] += 5.1
        limiter._look()
        assert limiter.delay == 0.0
        source.set(used=1000)
        limiter._look()
        assert limiter.delay == 0.025


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.0},
        {"threshold": -0.1},
        {"threshold": "95%"},
        {"shortest": -1},
        {"shortest": 0.1},
        {"longest": 61},
        {"longest": float("nan")},
        {"longest": True},
        {"every": 0},
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PressureLimiter(Tracker(1000), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a tracker or a provider"):
        PressureLimiter(object())  # type: ignore[arg-type]
    assert readers() == []


def test_a_forked_child_reads_anew() -> None:
    """F41: the reader's thread does not exist in the child."""
    run_isolated(_fork)


def _fork() -> None:
    source = FixedProvider(1000, 0)
    asking: list[int] = []
    go_on = threading.Event()

    class Slow:
        def read(self) -> object:
            asking.append(1)
            assert go_on.wait(20)
            return source.read()

    go_on.set()
    limiter = PressureLimiter(Slow(), every=3600)  # type: ignore[arg-type]
    child = os.fork()
    if not child:
        source.set(used=1000)
        asking.clear()
        go_on.clear()
        callers = [threading.Thread(target=lambda: limiter.share) for _ in range(5)]
        for caller in callers:
            caller.start()
        until(lambda: len(asking) + sum(not caller.is_alive() for caller in callers) == 5)
        go_on.set()
        for caller in callers:
            caller.join()
        assert limiter.delay == 0.025
        assert len(readers()) == 1
        limiter.close()
        assert readers() == []
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    limiter.close()
