"""How operations are measured against their peers: they take turns, and what is judged is a ratio.

A loop runs in a function of its own, compiled anew, so that what the interpreter learned about one of them does not
speed up another. All loops of a race run in each round, in turning order; a ratio is the median of those of the
rounds, so that a busy machine disturbs both sides alike. Time is that of the processor in this thread, and the garbage
collector is off.
"""

import argparse
import gc
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import median
from time import thread_time
from types import TracebackType
from typing import Any

from attrs import asdict, frozen

from memquota import Tracker

__all__ = [
    "Row",
    "TimedLock",
    "Times",
    "compared",
    "loop",
    "machine",
    "measured",
    "print_table",
    "quiet",
    "race",
    "show",
    "time_text",
]

#: How long one loop runs in one round, in seconds: far more than reading the clock takes.
SPAN = 0.004
ROUNDS = 41

#: Seconds that an operation took in each round.
Times = list[float]


@frozen
class Row:
    """One line of the table.

    Attributes:
        operation: What was measured.
        ours: What it took, as text.
        peer: What it is compared with and what that took, as text; empty where the bar is absolute.
        ratio: Ours over the peer's.
        bar: What it may be at most, as text; empty where there is no bar.
        held: Whether it is; None without a bar.
    """

    operation: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    bar: str = ""
    held: bool | None = None


# --- measuring ------------------------------------------------------------------------------------------------------


def loop(statement: str, **names: Any) -> Callable[[int], float]:
    """A function that runs the statement so many times and returns the seconds that took.

    The loop itself is part of it: a few nanoseconds on each side of a comparison.
    """
    namespace: dict[str, Any] = {"_clock": thread_time}
    exec(
        f"def run(_repeats, {', '.join(names)}):\n"
        "    _started = _clock()\n"
        "    for _ in _repeats:\n"
        f"        {statement}\n"
        "    return _clock() - _started\n",
        namespace,
    )
    run = namespace["run"]

    def times(repeats: int) -> float:
        seconds: float = run(range(repeats), **names)
        return seconds

    return times


def race(loops: dict[str, Callable[[int], float]], rounds: int = ROUNDS) -> dict[str, Times]:
    """Seconds that each statement takes, in each round."""
    with quiet():
        repeats = {name: _repeats(run) for name, run in loops.items()}
        times: dict[str, Times] = {name: [] for name in loops}
        order = list(loops)
        for _ in range(rounds):
            for name in order:
                times[name].append(loops[name](repeats[name]) / repeats[name])
            order.reverse()
    return times


def _repeats(run: Callable[[int], float]) -> int:
    """How often a statement runs in `SPAN`. Warms the loop up, too."""
    repeats = 16
    while (took := run(repeats)) < SPAN / 4:
        repeats *= 2
    return max(1, round(repeats * SPAN / took))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class TimedLock:
    """Takes the place of the lock of a tracker's books until `stop`, and notes how long it is held at most."""

    def __init__(self, tracker: Tracker) -> None:
        self.longest = 0.0
        books: Any = tracker._books
        self._books = books
        self._lock = books._lock
        self._since = 0.0
        books._lock = self

    def stop(self) -> None:
        """Put the lock itself back."""
        self._books._lock = self._lock

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = thread_time()

    def _is_owned(self) -> bool:
        owned: bool = self._lock._is_owned()
        return owned

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = thread_time() - self._since
        self._lock.release()
        self.longest = max(self.longest, held)


# --- the table ------------------------------------------------------------------------------------------------------


def compared(operation: str, ours: Times, peer: str, theirs: Times, bar: float | None = None) -> Row:
    """A line whose bar is a ratio: at most so much of the peer's time."""
    ratio = median(our / their for our, their in zip(ours, theirs, strict=True))
    return Row(
        operation,
        time_text(median(ours)),
        f"{peer}: {time_text(median(theirs))}",
        ratio,
        "" if bar is None else f"≤ {bar:g}",
        None if bar is None else ratio <= bar,
    )


def measured(operation: str, value: float, bar: float | None, text: Callable[[float], str]) -> Row:
    """A line whose bar is absolute."""
    held = None if bar is None else value <= bar
    return Row(operation, text(value), bar="" if bar is None else f"≤ {text(bar)}", held=held)


def time_text(seconds: float) -> str:
    """A span of time for people."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def machine() -> str:
    """What this runs on."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [row.partition(":")[2].strip() for row in file if row.startswith("model name")]
        processor = f"{len(names)} x {names[0]}" if names else processor
    except OSError:
        pass
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}, {processor}"


def print_table(rows: Iterable[Row]) -> None:
    """Print rows as they come."""
    print(f"{'operation':56} {'ours':>8}  {'peer':26} {'ratio':>7}  bar")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        verdict = {True: "held", False: "MISSED", None: ""}[row.held]
        print(f"{row.operation:56} {row.ours:>8}  {row.peer:26} {ratio:>7}  {row.bar:9} {verdict}".rstrip(), flush=True)


def show(rows: Callable[[bool], Iterable[Row]]) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    parser.add_argument("--full", action="store_true", help="also what takes minutes")
    options = parser.parse_args()
    if options.json:
        print(json.dumps([asdict(row) for row in rows(options.full)]))
    else:
        print(machine())
        print_table(rows(options.full))
