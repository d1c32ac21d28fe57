"""Pressure stall information, and being told of it."""

import errno
import gc
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import Gate, PressureLimiter, Tracker, WouldBlock, host
from memquota.errors import UsageValueError
from memquota.host.pressure import PressureFile
from memquota.host.pressure_watch import StallMeter
from memquota.testing import FakeClock
from tests.host.support import TREES, v2_tree, write_tree
from tests.support.watchdog import run_isolated


def pressure_text(some: float, full: float = 0.0) -> str:
    """A pressure file with totals of so many seconds."""
    return "".join(
        f"{kind} avg10=1.50 avg60=0.75 avg300=0.25 total={total * 1e6:.0f}\n"
        for kind, total in (("some", some), ("full", full))
    )


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = v2_tree(tmp_path)
    write_tree(tmp_path, {"sys/fs/cgroup/app/memory.pressure": pressure_text(2.5, 1.25)})
    return root


def write_some(root: str, seconds: float) -> None:
    """Move the total on; in one write, since the watch may be reading."""
    path = Path(root, "sys/fs/cgroup/app/memory.pressure")
    old = path.read_bytes()
    new = pressure_text(seconds, 1.25).encode()
    assert len(new) == len(old)
    with path.open("r+b", buffering=0) as file:
        file.write(new)


def test_averages_are_percent_and_totals_seconds(root: str) -> None:
    assert host.pressure(root) == host.PressureReading(
        some=host.Stall(1.5, 0.75, 0.25, 2.5), full=host.Stall(1.5, 0.75, 0.25, 1.25), level="/app"
    )


def test_a_group_that_was_switched_off_leaves_it_to_the_machine(root: str) -> None:
    write_tree(
        Path(root),
        {"sys/fs/cgroup/app/memory.pressure": "", "proc/pressure/memory": pressure_text(7.0)},
    )

    found = host.pressure(root)

    assert found is not None
    assert (found.level, found.some.total) == ("machine", 7.0)


def test_where_nothing_is_kept_there_is_no_reading(tmp_path: Path) -> None:
    assert host.pressure(str(tmp_path)) is None
    assert host.pressure(str(TREES / "no-psi")) is None


def test_a_garbled_place_leaves_it_to_the_machine(root: str) -> None:
    write_tree(
        Path(root),
        {"proc/self/mountinfo": "\0", "proc/pressure/memory": pressure_text(7.0)},
    )

    found = host.pressure(root)

    assert found is not None
    assert found.level == "machine"


def test_a_group_that_is_removed_between_two_looks_is_no_error(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F45: what was read is told, and not read again."""
    looks: list[PressureFile] = []
    read = PressureFile.read

    def once(file: PressureFile) -> host.PressureReading:
        looks.append(file)
        if len(looks) > 1:
            raise OSError(errno.ENODEV, "No such device")
        return read(file)

    monkeypatch.setattr(PressureFile, "read", once)

    found = host.pressure(root)

    assert found is not None
    assert found.some.total == 2.5


# --- for gates and limiters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("percent", "fraction"), [(0.0, 0.0), (12.5, 0.125), (100.0, 1.0), (250.0, 1.0)])
def test_a_stall_says_which_share_of_the_time_was_lost(percent: float, fraction: float) -> None:
    assert host.Stall(percent, 0.0, 0.0, 0.0).fraction == fraction


def write_average(root: str, some: float, full: float = 0.0) -> None:
    lines = (
        f"{kind} avg10={part:.2f} avg60=0.00 avg300=0.00 total=7\n" for kind, part in (("some", some), ("full", full))
    )
    write_tree(Path(root), {"sys/fs/cgroup/app/memory.pressure": "".join(lines)})


def test_a_pressure_provider_reads_the_group_and_follows_it(root: str) -> None:
    """F47: a move is noticed within 3 s, and a group that was removed at once."""
    clock = FakeClock(1000.0)
    some, full = host.PressureProvider(root=root, clock=clock), host.PressureProvider(full=True, root=root, clock=clock)
    write_average(root, 25.0, 12.5)
    assert (some.read().fraction, full.read().fraction) == (0.25, 0.125)
    write_average(root, 50.0)
    assert some.read().fraction == 0.5

    write_tree(Path(root), {"sys/fs/cgroup/other/memory.pressure": pressure_text(0.5)})
    write_tree(Path(root), {"proc/self/cgroup": "0::/other\n"})
    clock.advance(2.9)
    assert some.read().fraction == 0.5
    clock.advance(0.1)
    assert some.read().fraction == 0.015
    write_tree(Path(root), {"sys/fs/cgroup/app/memory.pressure": ""})  # as removed as a file on a disk can be
    assert full.read().fraction == 0.015


def test_a_pressure_provider_of_nothing_is_unavailable_until_there_is_something(root: str) -> None:
    """F45: unknown is neither 0 nor an error of another kind."""
    provider = host.PressureProvider(root=root)
    provider.read()
    write_tree(Path(root), {"sys/fs/cgroup/app/memory.pressure": "some"})

    for _ in range(2):
        with pytest.raises(host.ReadingUnavailable, match="keeps no memory pressure information"):
            provider.read()
    write_average(root, 50.0)
    assert provider.read().fraction == 0.5


def test_a_gate_can_go_by_pressure(root: str) -> None:
    clock = FakeClock(1000.0)
    tracker = Tracker("1MiB", clock=clock)
    gate = Gate(tracker, provider=host.PressureProvider(root=root, clock=clock), high=0.2, hysteresis=0.1)
    write_average(root, 5.0)
    inside = gate.acquire_nowait("1KiB")

    write_average(root, 30.0)
    clock.advance(0.2)
    with pytest.raises(WouldBlock):
        gate.acquire_nowait("1KiB")
    write_average(root, 15.0)  # not yet below what opens it again
    clock.advance(0.2)
    with pytest.raises(WouldBlock):
        gate.acquire_nowait("1KiB")
    write_average(root, 5.0)
    clock.advance(0.2)
    gate.acquire_nowait("1KiB").release()
    inside.release()


def test_a_limiter_can_go_by_pressure(root: str) -> None:
    write_average(root, 55.0)

    with PressureLimiter(
        host.PressureProvider(root=root), threshold=0.1, shortest=0.0, longest=0.01, every=60
    ) as limiter:
        assert limiter.delay == pytest.approx(0.005)


# --- being told -------------------------------------------------------------------------------------------------------


def meter_says(*samples: tuple[float, float], stall: float = 1.0, window: float = 2.0) -> list[bool]:
    meter = StallMeter(stall, window)
    return [meter.add(now, total) for now, total in samples]


def test_the_meter_tells_when_a_window_lost_enough() -> None:
    assert meter_says((0, 5.0), (1, 5.5), (2, 6.0)) == [False, False, True]


def test_the_meter_forgets_what_lies_before_the_window() -> None:
    assert meter_says((0, 0.0), (1, 0.5), (2, 0.5), (3, 0.9), (4, 1.4)) == [False] * 5


def test_the_meter_starts_anew_after_it_told() -> None:
    assert meter_says((0, 0.0), (1, 1.0), (2, 1.9), (3, 2.0)) == [False, True, False, True]


def test_the_meter_starts_anew_when_total_or_clock_go_backwards() -> None:
    assert meter_says((0, 9.0), (1, 0.5), (2, 1.4)) == [False, False, False]
    assert meter_says((9, 0.0), (1, 0.75), (2, 1.5), (2.5, 1.75)) == [False, False, False, True]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_meter_agrees_with_a_look_at_the_whole_history(steps: list[tuple[int, int]]) -> None:
    stall, window = 8, 10
    meter = StallMeter(stall, window)
    now = total = 0
    history: list[tuple[int, int]] = []
    for pause, lost in steps:
        now, total = now + pause, total + lost

        told = meter.add(now, total)

        # What was lost since the last sample that is a window or more ago, or since the first.
        before = [sample for sample in history if sample[0] <= now - window]
        start = before[-1] if before else (history[0] if history else (now, total))
        assert told == (total - start[1] >= stall)
        history = [(now, total)] if told else [*history, (now, total)]


def test_a_watch_that_looks_tells_of_stalls(root: str) -> None:
    readings: list[host.PressureReading] = []
    told = threading.Event()

    def tell(reading: host.PressureReading) -> None:
        readings.append(reading)
        told.set()

    with host.PressureWatch(tell, stall=0.4, window=5.0, root=root) as watch:
        assert not watch.granted  # nothing is written to a recorded tree
        total = 2.5
        while not told.wait(0.6):  # until its second look, whenever the first one was
            total += 0.5
            write_some(root, total)
            assert total < 9

    assert readings[0].level == "/app"
    assert readings[0].some.total > 2.5


def test_full_stalls_are_told_apart(root: str) -> None:
    told = threading.Event()
    with host.PressureWatch(lambda reading: told.set(), stall=0.05, window=0.5, full=True, root=root):
        for total in (3.0, 3.5, 4.0):
            write_some(root, total)
            assert not told.wait(0.2)


def test_a_callback_may_raise_and_is_called_again(root: str, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0
    twice = threading.Event()

    def fail(reading: host.PressureReading) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        raise ZeroDivisionError("a fault")

    with (
        caplog.at_level(logging.ERROR, logger="memquota.host"),
        host.PressureWatch(fail, stall=0.1, window=0.5, root=root),
    ):
        total = 2.5
        while not twice.wait(0.1):
            total += 0.2
            write_some(root, total)
            assert total < 9.8

    assert caplog.messages[:2] == ["callback of a memory pressure watch failed"] * 2


def test_a_watch_follows_into_another_group(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F47: a move is noticed within 3 s."""
    monkeypatch.setattr("memquota.host.pressure_watch.LOOK_EVERY", 0.05)
    told = threading.Event()

    def tell(reading: host.PressureReading) -> None:
        if reading.level == "/other":
            told.set()

    with host.PressureWatch(tell, stall=0.1, window=0.5, root=root):
        other = {"sys/fs/cgroup/other/memory.pressure": pressure_text(0.5)}
        write_tree(Path(root), {**other, "proc/self/cgroup": "0::/other\n"})
        path = Path(root, "sys/fs/cgroup/other/memory.pressure")
        total = 0.5
        while not told.wait(0.1):
            total += 0.2
            with path.open("r+b", buffering=0) as file:
                file.write(pressure_text(total).encode())
            assert total < 9.8


def test_a_watch_survives_files_that_vanish(root: str) -> None:
    told = threading.Event()
    with host.PressureWatch(lambda reading: told.set(), stall=0.1, window=0.5, root=root):
        Path(root, "sys/fs/cgroup/app/memory.pressure").write_text("")
        assert not told.wait(0.2)
        path = Path(root, "sys/fs/cgroup/app/memory.pressure")
        total = 2.5
        while not told.wait(0.1):
            total += 0.2
            path.write_text(pressure_text(total))
            assert total < 9.8


def test_a_watch_may_be_closed_from_its_callback_and_twice(root: str) -> None:
    closed = threading.Event()

    def close(reading: host.PressureReading) -> None:
        watch.close()
        closed.set()

    watch = host.PressureWatch(close, stall=0.1, window=0.5, root=root)
    total = 2.5
    while not closed.wait(0.1):
        total += 0.2
        write_some(root, total)
        assert total < 9.8
    watch.close()


def test_closing_does_not_wait_for_the_next_look() -> None:
    run_isolated("""
        from memquota import host
        from memquota.host import pressure_watch
        from tests.host.support import TREES

        pressure_watch._LOOKS_PER_WINDOW = 0.001
        host.PressureWatch(lambda reading: None, root=str(TREES / "v2")).close()
    """)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc/self/fd")
def test_closing_leaves_no_descriptor_and_no_thread(root: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch = host.PressureWatch(lambda reading: None, root=root)
    assert len(os.listdir("/proc/self/fd")) == before + 3  # the file, and both ends of a pipe
    names = [thread.name for thread in threading.enumerate()]
    assert "memquota-pressure" in names

    watch.close()
    del watch

    assert len(os.listdir("/proc/self/fd")) == before
    assert "memquota-pressure" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc/self/fd")
def test_a_watch_that_gets_no_thread_leaves_no_descriptor(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    gc.collect()  # what earlier tests left open
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(RuntimeError, match="can't start new thread") as caught:
        host.PressureWatch(lambda reading: None, root=root)

    del caught
    gc.collect()  # the traceback's frames hold the file
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernel_is_asked_on_the_real_machine() -> None:
    """Whether or not it grants a trigger, the watch runs and ends."""
    if host.pressure() is None:
        pytest.skip("this kernel keeps no pressure information")
    for window in (2.0, 1.0):  # a window of 1 s is granted to the privileged only
        with host.PressureWatch(lambda reading: None, stall=window, window=window) as watch:
            assert watch.granted in (True, False)
            assert watch.level.startswith("/") or watch.level == "machine"
        watch.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tell: host.PressureWatch(tell, window=0.4), r"window must be 0\.5 to 10\.0 s"),
        (lambda tell: host.PressureWatch(tell, window=11), r"window must be 0\.5 to 10\.0 s"),
        (lambda tell: host.PressureWatch(tell, stall=0), "stall must be above 0 and at most the"),
        (lambda tell: host.PressureWatch(tell, stall=2.5), "stall must be above 0 and at most the"),
        (lambda tell: host.PressureWatch(tell, stall=float("nan")), "stall must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make: Callable[[Callable[[host.PressureReading], None]], object], message: str
) -> None:
    with pytest.raises(UsageValueError, match=message):
        make(lambda reading: None)


def test_without_pressure_information_there_is_no_watch() -> None:
    with pytest.raises(host.ReadingUnavailable, match="keeps no memory pressure information"):
        host.PressureWatch(lambda reading: None, root=str(TREES / "no-psi"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_closes_its_copy_and_the_parents_watch_goes_on() -> None:
    """F41: the child does not wait for a thread that it has not, nor wake the parent's."""
    run_isolated("""
        import os, select, tempfile, threading, warnings
        from pathlib import Path
        from memquota import host
        from tests.host.test_pressure import pressure_text, write_some
        from tests.host.support import v2_tree, write_tree

        warnings.simplefilter("ignore")  # 3.12 warns of forking with threads
        with tempfile.TemporaryDirectory() as name:
            root = v2_tree(Path(name))
            write_tree(Path(name), {"sys/fs/cgroup/app/memory.pressure": pressure_text(2.5, 1.25)})
            told = threading.Event()
            with host.PressureWatch(lambda r: told.set(), stall=0.1, window=0.5, root=root) as watch:
                child = os.fork()
                if not child:
                    watch.close()
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert select.select([watch._wake], [], [], 0)[0] == []
                total = 2.5
                while not told.wait(0.1):
                    total += 0.2
                    write_some(root, total)
    """)
