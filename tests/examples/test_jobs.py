"""`examples/jobs.py`: a pool of threads whose jobs declare their bytes."""

import subprocess
import sys
import threading
import zlib
from concurrent.futures import Future
from pathlib import Path

import pytest

from examples.jobs import JobPool
from memquota import Tracker

MIB = 1024**2
WATCHDOG = 60.0
PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "jobs.py"


def test_no_more_is_worked_on_at_once_than_there_is_room_for_and_every_job_is_done() -> None:
    lock = threading.Lock()
    now = most = 0

    def job(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 3
            most = max(most, now)
        block = bytearray(3 * MIB)
        with lock:
            now -= 3
        return number + len(block) - 3 * MIB

    with Tracker("10MiB") as tracker:
        with JobPool(tracker, workers=8) as pool:
            jobs = [pool.submit(3 * MIB, job, number) for number in range(60)]
            assert [done.result(WATCHDOG) for done in jobs] == list(range(60))

        assert most <= 9
        assert tracker.statistics().peak <= 10 * MIB
        assert tracker.used == 0


def test_submit_waits_until_a_job_has_ended() -> None:
    go_on = threading.Event()
    later: list[Future[bool]] = []
    with Tracker("10MiB") as tracker, JobPool(tracker, workers=8) as pool:
        pool.submit(6 * MIB, go_on.wait, WATCHDOG)
        submitting = threading.Thread(target=lambda: later.append(pool.submit(6 * MIB, go_on.is_set)))
        submitting.start()
        while pool.gate.statistics().waiting != 1:
            assert submitting.is_alive()
        assert later == []
        assert tracker.used == 6 * MIB

        go_on.set()
        submitting.join(WATCHDOG)
        assert later[0].result(WATCHDOG)


def test_a_job_that_fails_gives_its_bytes_back() -> None:
    with Tracker("10MiB") as tracker:
        with JobPool(tracker, workers=1) as pool:
            for _ in range(5):
                job = pool.submit(10 * MIB, int, "no number")
                assert isinstance(job.exception(WATCHDOG), ValueError)

        assert tracker.used == 0


def test_a_job_larger_than_the_quota_runs_alone() -> None:
    with Tracker("10MiB") as tracker, JobPool(tracker, workers=4) as pool:
        jobs = [pool.submit(size * MIB, pow, size, 2) for size in (4, 40, 4)]

        assert [job.result(WATCHDOG) for job in jobs] == [16, 1600, 16]


def test_a_pool_that_is_shut_down_holds_nothing() -> None:
    with Tracker("10MiB") as tracker:
        pool = JobPool(tracker, workers=1)
        with pool:
            pass
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(MIB, print)

        assert tracker.used == 0


def test_the_program_compresses_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.txt" for number in range(10)]
    for file in files:
        file.write_bytes(b"memquota " * 100_000)
    (tmp_path / "empty").touch()

    done = subprocess.run(
        [sys.executable, PROGRAM, "--quota", "4MiB", tmp_path / "empty", *files],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    part = len(zlib.compress(b"memquota " * 100_000)) / 900_000
    assert done.stdout.splitlines() == [
        f" 100.0%  {tmp_path / 'empty'}",
        *(f"{part:7.1%}  {file}" for file in files),
    ]
    assert done.stderr.startswith("at most 3.4 MiB")  # two of them, twice their size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quota", "64M", __file__], "limit '64M' is ambiguous"),
        (["--quota", "64MiB", "--workers", "0", __file__], "max_concurrent of 0 is not between 1 and 2**62"),
        (["--quota", "64MiB", "/nothing/here"], "No such file or directory: '/nothing/here'"),
    ],
)
def test_what_the_program_cannot_work_with_it_says_in_a_line(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments], capture_output=True, text=True, timeout=WATCHDOG, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
