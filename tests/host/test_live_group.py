"""What is read in a control group with a real limit, and what the kernel then enforces.

A group is made beside our own, at the root of the hierarchy; a child process moves into it before
it imports anything of ours. Where that is not allowed, these tests are skipped and say so.
"""

import errno
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memquota.host import parse
from tests.host.support import MIB
from tests.support.watchdog import run_isolated

_numbers = itertools.count(1)


class LiveGroup:
    """A memory control group of our own making.

    Args:
        parent: The directory of the root of the hierarchy that has the memory controller.
        version: Of that hierarchy.
        limit: In bytes.
    """

    def __init__(self, parent: Path, version: int, limit: int) -> None:
        self.path = f"/memquota-test-{os.getpid()}-{next(_numbers)}"
        self.version = version
        self.directory = parent / self.path[1:]
        self.directory.mkdir()
        try:
            self.set_limit(limit)
            # Memory that can be swapped out would not end at the limit.
            swap = self.directory / ("memory.memsw.limit_in_bytes" if version == 1 else "memory.swap.max")
            if swap.exists():
                swap.write_text(str(limit if version == 1 else 0))
        except BaseException:
            self.directory.rmdir()
            raise

    def set_limit(self, limit: int) -> None:
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        (self.directory / name).write_text(str(limit))

    def run(self, source: str, *, check: bool = True, timeout: float = 60.0) -> tuple[int, str]:
        """Run source code in a child in this group; its exit code and what it printed."""
        move = f"open({str(self.directory / 'cgroup.procs')!r}, 'w').write('0')\n"
        done = run_isolated(move + _PRELUDE + source, check=check, timeout=timeout)
        return done.returncode, done.stdout

    def most_used(self) -> int:
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        return int((self.directory / name).read_text())


def remove(group: Path) -> None:
    """Remove a group whose last process has just ended."""
    deadline = time.monotonic() + 30
    while True:
        try:
            group.rmdir()
        except OSError as error:
            # The kernel may still be taking the child apart.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


_PRELUDE = """
import mmap, os
from memquota import host

PAGE = mmap.PAGESIZE

def take(size):
    "Fresh memory, every page of it in use."
    block = mmap.mmap(-1, size)
    for start in range(0, size, PAGE):
        block[start] = 1
    return block

now = [0.0]

def clock():
    "Goes on by a second each time, so that each reading is new."
    now[0] += 1.0
    return now[0]

provider = host.detect(clock=clock)
"""


def hierarchy() -> tuple[Path, int]:
    """The root of the hierarchy with the memory controller; raises where it cannot be had."""
    groups = parse.own_groups(Path("/proc/self/cgroup").read_bytes())
    version = 2 if groups.memory is None else 1
    for mount in parse.mounts(Path("/proc/self/mountinfo").read_bytes()):
        if mount.memory and mount.version == version and mount.root == "/":
            root = Path(mount.point)
            if version == 2 and "memory" not in (root / "cgroup.subtree_control").read_text():
                raise OSError("the memory controller is not enabled below the root")
            return root, version
    raise OSError(f"the root of the version {version} hierarchy is not mounted")


@pytest.fixture
def new_group() -> Iterator[Callable[[int], LiveGroup]]:
    made: list[LiveGroup] = []

    def make(limit: int) -> LiveGroup:
        try:
            root, version = hierarchy()
            made.append(LiveGroup(root, version, limit))
        except OSError as error:
            pytest.skip(f"NOT CHECKED AGAINST THE KERNEL: no memory control group here: {error}")
        return made[-1]

    yield make
    for group in made:
        remove(group.directory)


def test_the_reading_is_what_the_kernel_keeps(new_group: Callable[[int], LiveGroup]) -> None:
    group = new_group(64 * MIB)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[group.version]

    _, printed = group.run(f"""
block = take(20 * 1024**2)
reading = provider.read()
directory = {str(group.directory)!r}
limit, usage = (int(open(f"{{directory}}/{{name}}").read()) for name in {names[:2]!r})
stat = dict(line.split() for line in open(f"{{directory}}/memory.stat"))
print(reading.source, reading.level)
print(reading.limit == limit == 64 * 1024**2)
print(reading.used + reading.available == limit)
print(abs(reading.used - (usage - int(stat[{names[2]!r}]))) <= 1024**2, reading.used >= len(block))
""")

    assert printed.splitlines() == [
        f"cgroup v{group.version} {group.path}",
        "True",
        "True",
        "True True",
    ]


def test_what_is_available_can_be_taken_and_more_cannot(
    new_group: Callable[[int], LiveGroup],
) -> None:
    group = new_group(64 * MIB)
    slack = 4 * MIB  # the interpreter goes on living, and version 1 counts in batches

    code, printed = group.run(f"""
available = provider.read().available
block = take(available - {slack})
print(available, provider.read().available)
""")
    available, left = map(int, printed.split())
    assert code == 0
    assert 32 * MIB < available < 64 * MIB
    assert 0 <= left <= 2 * slack
    assert group.most_used() <= 64 * MIB

    code, printed = group.run(
        f"""
block = take(provider.read().available + {slack})
print("not enforced")
""",
        check=False,
    )
    assert (code, printed) == (-signal.SIGKILL, "")
    assert group.most_used() == 64 * MIB


def test_a_program_that_heeds_the_reading_stops_by_itself(
    new_group: Callable[[int], LiveGroup],
) -> None:
    group = new_group(96 * MIB)

    _, printed = group.run("""
blocks, seen = [], []
while provider.read().available > 16 * 1024**2:
    seen.append(provider.read().available)
    blocks.append(take(2 * 1024**2))
full = provider.read().available
blocks.clear()
print(all(a - b >= 1024**2 for a, b in zip(seen, seen[1:])), len(seen) >= 20)
print(8 * 1024**2 <= full <= 16 * 1024**2, provider.read().available >= seen[0] - 4 * 1024**2)
""")

    assert printed.splitlines() == ["True True", "True True"]


def test_what_the_allocator_keeps_counts_where_it_is_asked_for(
    new_group: Callable[[int], LiveGroup],
) -> None:
    group = new_group(96 * MIB)

    _, printed = group.run("""
books = host.allocator()
if books is None:
    print("no books")
    raise SystemExit
counting = host.detect(clock=clock, count_allocator=True)
import ctypes
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
small = [malloc(4096) for _ in range(8 * 1024)]
for pointer in small:
    ctypes.memset(pointer, 1, 4096)
held, kept = provider.read().available, counting.read().available
for pointer in small[:-1]:  # the last one keeps the heap from shrinking
    free(pointer)
held_after, kept_after = provider.read().available, counting.read().available
print(held_after - held < 4 * 1024**2, kept_after - kept > 28 * 1024**2, counting.read().source)
""")

    if printed == "no books\n":
        pytest.skip("NOT CHECKED AGAINST THE KERNEL: this C library's allocator tells nothing")
    assert printed == f"True True cgroup v{group.version} and glibc and CPython\n"


def test_what_the_allocator_gave_back_is_not_counted_twice(new_group: Callable[[int], LiveGroup]) -> None:
    group = new_group(160 * MIB)

    _, printed = group.run("""
import ctypes
library = ctypes.CDLL(None)
if not hasattr(library, "malloc_trim") or host.allocator() is None:
    print("no books")
    raise SystemExit
counting = host.detect(clock=clock, count_allocator=True)
ready, go_on = os.pipe(), os.pipe()
child = os.fork()
if not child:
    block = take(64 * 1024**2)  # so that there is more in use than the allocator could have
    os.write(ready[1], b"x")
    os.read(go_on[0], 1)
    os._exit(0)
os.read(ready[0], 1)
malloc, free = library.malloc, library.free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
small = [malloc(4096) for _ in range(8 * 1024)]
for pointer in small:
    ctypes.memset(pointer, 1, 4096)
for pointer in small[:-1]:
    free(pointer)
library.malloc_trim(0)
print(host.allocator().available > 28 * 1024**2)  # in its books it is still there
print(counting.read().available - provider.read().available < 20 * 1024**2)
os.write(go_on[1], b"x")
os.waitpid(child, 0)
""")

    if printed == "no books\n":
        pytest.skip("NOT CHECKED AGAINST THE KERNEL: this C library's allocator tells nothing")
    assert printed == "True\nTrue\n"


def test_a_changed_limit_and_a_move_are_noticed(new_group: Callable[[int], LiveGroup]) -> None:
    """F47: a limit that changes while running at the next reading, a move within 3 s."""
    group, other = new_group(64 * MIB), new_group(48 * MIB)
    name = "memory.limit_in_bytes" if group.version == 1 else "memory.max"

    _, printed = group.run(f"""
print(provider.read().limit // 1024**2)
open({str(group.directory / name)!r}, "w").write(str(56 * 1024**2))
print(provider.read().limit // 1024**2)
open({str(other.directory / "cgroup.procs")!r}, "w").write("0")
for _ in range(3):  # seconds of its clock
    reading = provider.read()
print(reading.limit // 1024**2, reading.level)
""")

    assert printed.splitlines() == ["64", "56", f"48 {other.path}"]


def test_a_fuller_group_above_binds_and_is_what_ends(new_group: Callable[[int], LiveGroup]) -> None:
    """F47: the group above is full of another process's memory, and has less room than ours."""
    above = new_group(128 * MIB)
    if above.version == 2:
        (above.directory / "cgroup.subtree_control").write_text("+memory")
    inner, sibling = above.directory / "inner", above.directory / "sibling"
    for group in (inner, sibling):
        group.mkdir()
    limit = "memory.limit_in_bytes" if above.version == 1 else "memory.max"
    (inner / limit).write_text(str(512 * MIB))
    source = f"""
def move(group):
    open(group + "/cgroup.procs", "w").write("0")

move({str(inner)!r})
{_PRELUDE}
ready, go_on = os.pipe(), os.pipe()
child = os.fork()
if not child:
    move({str(sibling)!r})
    block = take(64 * 1024**2)
    os.write(ready[1], b"x")
    os.read(go_on[0], 1)
    os._exit(0)
os.read(ready[0], 1)
reading, first = provider.read(), host.limits().first
print(reading.level, reading.limit // 1024**2, first.level, reading.available // 1024**2, flush=True)
# The kernel kills the largest process of the group, which is this one by then.
blocks = [take(2 * 1024**2) for _ in range(100)]
print("not enforced")
"""
    try:
        done = run_isolated(source, check=False)
    finally:
        for group in (inner, sibling):
            remove(group)

    level, size, first, available = done.stdout.split()
    assert (level, size, first) == (above.path, "128", above.path)
    assert 16 <= int(available) <= 128 - 64
    assert done.returncode == -signal.SIGKILL


def test_a_namespace_with_a_mount_of_its_own_shows_the_same_limit(
    new_group: Callable[[int], LiveGroup], tmp_path: Path
) -> None:
    """F47: as in a container, and with the host's hierarchy still mounted as well."""
    group = new_group(64 * MIB)

    _, printed = group.run(f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
before = provider.read()
NEWNS, NEWCGROUP, PRIVATE, REC = 0x20000, 0x2000000, 1 << 18, 1 << 14
kind, options = ("cgroup", b"memory") if {group.version} == 1 else ("cgroup2", None)
if (
    libc.unshare(NEWNS | NEWCGROUP) != 0
    or libc.mount(b"none", b"/", None, REC | PRIVATE, None) != 0
    or libc.mount(b"none", {str(tmp_path)!r}.encode(), kind.encode(), 0, options) != 0
):
    print("not allowed:", os.strerror(ctypes.get_errno()))
    raise SystemExit
for _ in range(3):  # seconds of its clock
    reading = provider.read()
print(before.level, reading.level, before.limit == reading.limit == 64 * 1024**2)
print(provider.provider.why.endswith({f"/ is seen at {tmp_path}"!r}), host.limits().first.limit == reading.limit)
""")

    if printed.startswith("not allowed"):
        pytest.skip(f"NOT CHECKED AGAINST THE KERNEL: a namespace is {printed}")
    assert printed.splitlines() == [f"{group.path} / True", "True True"]


def test_limits_name_the_group_as_what_is_hit_first(
    new_group: Callable[[int], LiveGroup],
) -> None:
    group = new_group(64 * MIB)

    _, printed = group.run("""
import resource
found = host.limits()
print(found.first.level, found.effective == found.first.limit == 64 * 1024**2)
space = int(open("/proc/self/statm").read().split()[0]) * PAGE
resource.setrlimit(resource.RLIMIT_AS, (space + 8 * 1024**2, -1))
first = host.limits().first
print(first.title, 4 * 1024**2 < first.distance <= 8 * 1024**2)
try:
    take(first.distance + 1024**2)
except OSError as error:
    print(error.strerror)
""")

    assert printed.splitlines() == [
        f"{group.path} True",
        "RLIMIT_AS of the process True",
        "Cannot allocate memory",
    ]


def test_a_watch_leaves_a_group_that_is_removed() -> None:
    """F47: the trigger dies with its group, and the new group's pressure is watched."""
    mounts = parse.mounts(Path("/proc/self/mountinfo").read_bytes())
    roots = [Path(mount.point) for mount in mounts if mount.version == 2 and mount.root == "/"]
    groups = [root / f"memquota-test-{os.getpid()}-{side}" for root in roots[:1] for side in "ab"]
    made: list[Path] = []
    try:
        try:
            for group in groups:
                group.mkdir()
                made.append(group)
            if not made or not (made[0] / "memory.pressure").exists():
                raise OSError("no version 2 hierarchy that keeps pressure by group")
        except OSError as error:
            pytest.skip(f"NOT CHECKED AGAINST THE KERNEL: {error}")
        printed = run_isolated(f"""
            import os, time
            def move(group):
                open(group + "/cgroup.procs", "w").write("0")
            first, second = {[str(group) for group in made]!r}
            move(first)
            from memquota import host
            from memquota.host import pressure_watch
            with host.PressureWatch(lambda reading: None) as watch:
                print(watch.level)
                if watch.granted:
                    pressure_watch.LOOK_EVERY = 3600.0  # the kernel's word alone must do
                move(second)
                os.rmdir(first)
                deadline = time.monotonic() + 20
                while watch.level != "/" + os.path.basename(second) and time.monotonic() < deadline:
                    time.sleep(0.01)
                print(watch.level)
        """).stdout
        assert printed.splitlines() == [f"/{group.name}" for group in made]
    finally:
        for group in made:
            if group.exists():
                remove(group)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pressure is Linux's")
def test_real_pressure_is_told(new_group: Callable[[int], LiveGroup], tmp_path: Path) -> None:
    group = new_group(32 * MIB)
    file = tmp_path / "larger than the group"

    _, printed = group.run(
        f"""
import threading, time
if host.pressure() is None:
    print("no pressure information")
    raise SystemExit
told = threading.Event()
with open({str(file)!r}, "wb") as stream:  # its pages belong to the group of who writes them
    for _ in range(96):
        stream.write(os.urandom(1024**2))
with host.PressureWatch(lambda reading: told.set(), stall=0.05) as watch:
    print("granted" if watch.granted else "polled", flush=True)
    descriptor = os.open({str(file)!r}, os.O_RDONLY)
    pages = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    deadline = time.monotonic() + 45
    while not told.is_set() and time.monotonic() < deadline:
        for start in range(0, len(pages), PAGE):  # each page is gone by the time it is wanted
            pages[start]
print(told.is_set())
""",
        timeout=90,
    )

    if printed == "no pressure information\n":
        pytest.skip("NOT CHECKED AGAINST THE KERNEL: it keeps no pressure information")
    mode, told = printed.splitlines()
    assert mode in ("granted", "polled")
    assert told == "True"
