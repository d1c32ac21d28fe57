"""What counting allocations costs, against nothing and against `tracemalloc`: `python -m benchmarks.allocations`.

Loops that hardly do anything but allocate, and two real programs: the standard library compiled by `compileall`, and
parsed by `ast`. Sources of figures are started and stopped between the measurements, which take turns.
"""

import ast
import compileall
import sys
import sysconfig
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import thread_time

from benchmarks.harness import Row, Times, measured, quiet, show, time_text
from memquota.accounting import allocations

ROUNDS = 15
PROGRAM_ROUNDS = 5
REPEATS = 200
BATCH = 100

LOOP_BAR = 2.0
PROGRAM_BAR = 1.15


class Pair:
    __slots__ = ("a", "b")

    def __init__(self, a: int, b: int) -> None:
        self.a, self.b = a, b


def objects() -> None:
    for _ in range(REPEATS):
        [object() for _ in range(BATCH)]


def pairs() -> None:
    for _ in range(REPEATS):
        [Pair(1, 2) for _ in range(BATCH)]


def texts() -> None:
    for _ in range(REPEATS):
        [str(number) for number in range(1_000, 1_000 + BATCH)]


def dropped() -> None:
    for _ in range(REPEATS * BATCH):
        object()


def kept() -> None:
    [object() for _ in range(REPEATS * BATCH)]


LOOPS: dict[str, Callable[[], None]] = {
    "100 objects at a time": objects,
    "100 instances at a time": pairs,
    "100 str at a time": texts,
    "objects, each dropped at once": dropped,
    "20,000 objects at a time": kept,
}


def standard_library() -> list[Path]:
    """Some of its sources: a megabyte."""
    found = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    assert len(found) > 100
    return found[:100]


def parse(sources: list[str]) -> None:
    for source in sources:
        ast.parse(source)


def compile_all(files: list[Path]) -> None:
    """What it writes goes to a directory of its own."""
    before = sys.pycache_prefix
    with tempfile.TemporaryDirectory() as directory:
        sys.pycache_prefix = directory
        try:
            for file in files:
                assert compileall.compile_file(file, force=True, quiet=2)
        finally:
            sys.pycache_prefix = before


# --- the sources of figures -----------------------------------------------------------------------------------------


class Nothing:
    name = "nothing"

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Ours:
    """All in one group."""

    name = "in a group"

    def __init__(self) -> None:
        self.group = allocations.register("benchmark")

    def start(self) -> None:
        allocations.start()
        assert allocations.enter is not None
        allocations.enter(self.group)

    def stop(self) -> None:
        assert allocations.enter is not None
        allocations.enter(0)
        allocations.stop()


class OursIdle(Ours):
    """Counting, but all of this is nobody's."""

    name = "in no group"

    def start(self) -> None:
        allocations.start()


class Trace:
    name = "tracemalloc"

    def start(self) -> None:
        tracemalloc.start()

    def stop(self) -> None:
        tracemalloc.stop()


def race(work: Callable[[], None], rounds: int) -> dict[str, Times]:
    """Seconds of each round, by source."""
    sources: list[Nothing | Ours | Trace] = [Nothing(), Ours(), OursIdle(), Trace()]
    times: dict[str, Times] = {source.name: [] for source in sources}
    with quiet():
        work()
        for _ in range(rounds):
            for source in sources:
                source.start()
                try:
                    work()  # the heap's pages are there already, and a table's should be
                    began = thread_time()
                    work()
                    times[source.name].append(thread_time() - began)
                finally:
                    source.stop()
            sources.reverse()
    return times


def compared(what: str, times: dict[str, Times], count: int, bar: float) -> Iterator[Row]:
    """A row for each source, against nothing."""
    nothing = times.pop("nothing")
    for name, taken in times.items():
        ratio = median(our / their for our, their in zip(taken, nothing, strict=True))
        judged = name == Ours.name
        yield Row(
            f"{what}, {name}",
            time_text(median(taken) / count),
            f"nothing: {time_text(median(nothing) / count)}",
            ratio,
            f"≤ {bar:g}" if judged else "",
            ratio <= bar if judged else None,
        )


def turning() -> Row:
    """What a group costs by being entered and left."""
    source = Ours()
    source.start()
    enter, group = allocations.enter, source.group
    assert enter is not None
    taken = []
    for _ in range(ROUNDS):
        began = thread_time()
        for _ in range(10_000):
            enter(group)
            enter(0)
        taken.append((thread_time() - began) / 20_000)
    source.stop()
    return measured("tell the hooks whose turn it is", median(taken), None, time_text)


def rows(full: bool = False) -> Iterator[Row]:
    """All of it; what is compiled and parsed is a part of the standard library, all of its top level when `full`."""
    if not allocations.available():
        yield Row(f"allocations are not counted: {allocations.why_not()}", "")
        return
    for name, loop in LOOPS.items():
        yield from compared(name, race(loop, ROUNDS), REPEATS * BATCH, LOOP_BAR)
    files = standard_library()
    sources = [file.read_text(encoding="utf-8") for file in files]
    rounds = PROGRAM_ROUNDS * 3 if full else PROGRAM_ROUNDS
    yield from compared(f"ast.parse of {len(files)} files", race(lambda: parse(sources), rounds), 1, PROGRAM_BAR)
    yield from compared(f"compileall of {len(files)} files", race(lambda: compile_all(files), rounds), 1, PROGRAM_BAR)
    yield turning()


if __name__ == "__main__":
    show(rows)
