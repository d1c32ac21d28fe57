"""What a memory reading costs, against `psutil.virtual_memory()`: `python -m benchmarks.host`.

The bar is 10 µs a level, the machine being one. A level with a limit is read in a control group that is made for
it, where that is allowed. Best of several rounds that take turns, so that a busy machine disturbs all alike.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import psutil

from memquota import host
from memquota.host import parse
from memquota.host.cgroup import lineage
from memquota.host.files import KeptFile

ROUNDS = 15
BAR_PER_LEVEL = 10.0  # microseconds


def best(operations: dict[str, Callable[[], object]], calls: int = 300) -> dict[str, float]:
    """Microseconds a call, the best of rounds that take turns."""
    found = dict.fromkeys(operations, float("inf"))
    for _ in range(ROUNDS):
        for name, operation in operations.items():
            start = perf_counter()
            for _ in range(calls):
                operation()
            found[name] = min(found[name], (perf_counter() - start) / calls * 1e6)
    return found


def files_of(provider: host.CgroupProvider) -> list[KeptFile]:
    """The files that a reading reads here: where a group has no limit, that is all there is to know."""
    found = provider._found
    assert found is not None
    files = [found.machine] if found.machine is not None else []
    for group in found.files:
        files.append(group.limit)
        if parse.limit(group.limit.read()) is not None:
            files += [group.usage, group.stat]
    return files


def measure() -> dict[str, object]:
    """Everything, in the control group that this process is in."""
    cached = host.detect()
    cached.read()
    raw = host.CgroupProvider()
    raw.read()
    files = files_of(raw)
    costs = best(
        {
            "psutil.virtual_memory()": psutil.virtual_memory,
            "CgroupProvider.read": raw.read,
            "its files, only read": lambda: [file.read() for file in files],
            "MeminfoProvider.read": host.MeminfoProvider().read,
        }
    )
    costs |= best({"detect().read, between readings": cached.read}, calls=20_000)
    costs |= best({"pressure()": host.pressure, "limits()": host.limits, "allocator()": host.allocator}, calls=20)
    levels = len(lineage("/").levels) + 1
    limited = sum(row.kind == "hard" and row.limit is not None for row in host.limits().rows) - 1
    return {"costs": costs, "levels": levels, "limited": limited}


def measure_in_a_group_with_a_limit() -> dict[str, object] | str:
    """The same in a group of 1 GiB beside our own; why not, where that cannot be had."""
    groups = parse.own_groups(Path("/proc/self/cgroup").read_bytes())
    version = 2 if groups.memory is None else 1
    mounts = parse.mounts(Path("/proc/self/mountinfo").read_bytes())
    roots = [mount.point for mount in mounts if mount.version == version and mount.memory and mount.root == "/"]
    if not roots:
        return "the root of the hierarchy is not mounted"
    group = Path(roots[0], f"memquota-benchmark-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        return str(error)
    try:
        (group / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(1024**3))
        move = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
        run = "import runpy; runpy.run_module('benchmarks.host', run_name='__main__')"
        with tempfile.TemporaryFile() as out:
            arguments = [sys.executable, "-c", f"{move}import sys; sys.argv = ['host', '--json']\n{run}"]
            subprocess.run(arguments, check=True, stdout=out, cwd=Path(__file__).parents[1])
            out.seek(0)
            found = json.load(out)
        assert isinstance(found, dict)
        return found
    except OSError as error:
        return str(error)
    finally:
        group.rmdir()


def show(title: str, found: dict[str, object]) -> bool:
    """Print a table; whether a reading keeps within the bar."""
    costs, levels = found["costs"], found["levels"]
    assert isinstance(costs, dict)
    assert isinstance(levels, int)
    print(f"\n{title}: {levels} levels with the machine, {found['limited']} control groups with a limit\n")
    print(f"{'operation':34} {'µs':>9} {'/ psutil':>9}")
    for name, cost in costs.items():
        print(f"{name:34} {cost:9.2f} {cost / costs['psutil.virtual_memory()']:9.3f}")
    per_level = float(costs["CgroupProvider.read"]) / levels
    print(f"{'CgroupProvider.read, a level':34} {per_level:9.2f}           bar {BAR_PER_LEVEL:.0f} µs")
    return per_level <= BAR_PER_LEVEL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the figures of the own group")
    if parser.parse_args().json:
        print(json.dumps(measure()))
        return 0
    within = show("In the own group", measure())
    limited = measure_in_a_group_with_a_limit()
    if isinstance(limited, str):
        print(f"\nNo group with a limit could be made: {limited}")
    else:
        within = show("In a group with a limit", limited) and within
    print("\nwithin the bar" if within else "\nABOVE THE BAR")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
