"""What a memory reading costs, against `psutil.virtual_memory()`: `python -m benchmarks.host`.

The bar is 10 µs a level, the machine being one. It is measured in the own control group and in one of 1 GiB that is
made for it, where that is allowed: the usage of a level is read only where its limit may bind.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
from attrs import asdict

from benchmarks.harness import Row, Times, compared, loop, measured, race, show, time_text
from memquota import host
from memquota.demo.confinement import AddressSpace, choose_confinement
from memquota.host.cgroup import lineage

BAR_PER_LEVEL = 10e-6  # seconds
GIB = 1024**3


def readings() -> Iterator[Row]:
    """What a reading costs in the control group that this process is in."""
    provider = host.CgroupProvider()
    levels = len(lineage("/").levels) + 1
    names = ("memory.max", "memory.limit_in_bytes")
    limited = sum(row.name in names and row.limit is not None for row in host.limits().rows)
    where = f"of {levels}, {limited or 'none'} with a limit"
    times = race(
        {"ours": loop("read()", read=provider.read), "psutil": loop("read()", read=psutil.virtual_memory)}, rounds=21
    )
    per_level = median(times["ours"]) / levels
    yield measured(f"memory reading, a level ({where})", per_level, BAR_PER_LEVEL, time_text)
    yield against_psutil(f"memory reading ({where})", times["ours"], times["psutil"], 1.0)


def against_psutil(operation: str, ours: Times, theirs: Times, bar: float | None = None) -> Row:
    return compared(operation, ours, "psutil", theirs, bar)


def rows(full: bool) -> Iterator[Row]:
    yield from readings()
    yield from readings_in_a_group_with_a_limit()
    cached = host.detect()
    asked = {
        "memory reading, not due yet": cached.read,
        "memory reading of the machine alone": host.MeminfoProvider().read,
        "memory pressure": host.pressure,
        "every limit": host.limits,
        "what the allocator keeps": host.allocator,
    }
    loops = {operation: loop("ask()", ask=ask) for operation, ask in asked.items()}
    times = race({**loops, "psutil": loop("read()", read=psutil.virtual_memory)}, rounds=21)
    for operation in asked:
        yield against_psutil(operation, times[operation], times["psutil"])


def readings_in_a_group_with_a_limit() -> Iterator[Row]:
    """The same in a child process in a group of 1 GiB, beside our own."""
    confinement = choose_confinement(GIB)
    try:
        if isinstance(confinement, AddressSpace):
            yield Row("memory reading in a group with a limit", "no group may be made here")
            return
        command = confinement.command([sys.executable, "-m", "benchmarks.host", "--readings"])
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        yield from (Row(**row) for row in json.loads(done.stdout))
    finally:
        confinement.remove()


if __name__ == "__main__":
    if sys.argv[1:] == ["--readings"]:
        print(json.dumps([asdict(row) for row in readings()]))
    else:
        show(rows)
