"""A pool of threads whose jobs declare their bytes before they begin.

`submit` waits until there is room for what the job declares. So at most so many bytes are worked on at once, however
many threads there are, and nothing piles up in the executor's queue. A job that alone needs more than there is waits
until nobody else runs, and runs alone.

    python examples/jobs.py --quota 64MiB FILE...       compresses files, and says how well that went
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import memquota

P = ParamSpec("P")
R = TypeVar("R")


class JobPool:
    """A ThreadPoolExecutor with a gate before it."""

    def __init__(self, tracker: memquota.Tracker, workers: int) -> None:
        self.gate = memquota.Gate(tracker, max_concurrent=workers)
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, size: int, job: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Wait for room for `size` bytes, then have a thread do the job. They are given back when it is over."""
        permit = self.gate.acquire(max(1, size))  # a weight of nothing is none
        try:
            future = self._threads.submit(job, *args, **kwargs)
        except BaseException:
            permit.release()
            raise
        future.add_done_callback(lambda _: permit.release())  # also when it fails or is cancelled
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()


def compress(path: Path) -> float:
    """The part of a file's size that is left."""
    data = path.read_bytes()
    return len(zlib.compress(data)) / len(data) if data else 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quota", default="auto", help="such as 64MiB or 50%% (default: auto)")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    try:
        # A file and what it is compressed to, which is hardly ever more.
        files = [(path, 2 * path.stat().st_size) for path in options.files]
        tracker = memquota.Tracker(options.quota)
        pool = JobPool(tracker, options.workers)
    except (OSError, memquota.UsageError) as error:
        parser.error(str(error))
    with tracker:
        with pool:
            jobs = [(path, pool.submit(size, compress, path)) for path, size in files]
            for path, job in jobs:
                print(f"{job.result():7.1%}  {path}")
        print(f"at most {memquota.format_size(tracker.statistics().peak)} at once", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
