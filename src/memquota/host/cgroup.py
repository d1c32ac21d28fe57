"""The memory of the control groups that this process is in, capped by the machine's."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from memquota.clock import Clock, monotonic
from memquota.host import cgroup_v1, parse
from memquota.host.cgroup_v1 import V1
from memquota.host.cgroup_v2 import V2
from memquota.host.files import OWN, KeptFile, Root, beneath, checked_root, read_once, read_to_end
from memquota.host.layout import Layout
from memquota.host.meminfo import MACHINE
from memquota.host.place import Level, memory_places
from memquota.host.readings import MemoryReading, ReadingUnavailable, checked_clock
from memquota.sizes import LARGEST_SIZE

LOOK_EVERY: Final = 1.0
"""The own group is looked up again this often, in seconds; a move is to be noticed within 3 s."""

# Below what an absurdly large limit is cut down to, so that such a limit is none here too.
_NONE: Final = LARGEST_SIZE - 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """The visible control groups that limit this process, the own one first."""

    layout: Layout
    levels: tuple[Level, ...]
    why: str
    """How they were found, or why there are none, in a sentence."""
    groups: bytes
    """What `/proc/self/cgroup` said; when it says something else, this process was moved."""


def lineage(root: str) -> Lineage:
    """Look at where this process is.

    Args:
        root: The root of the file system.

    Returns:
        Its groups; none where no hierarchy that limits memory can be seen.

    Raises:
        OSError: A file cannot be read, or the own group is not where it should be.
        Malformed: A file does not read as the kernel writes it.
    """
    groups = read_once(beneath(root, "/proc/self/cgroup"))
    mounts = parse.mounts(read_to_end(beneath(root, "/proc/self/mountinfo")))
    # Where no hierarchy is mounted at all the kernel writes an empty list; elsewhere it was cut off.
    own = parse.own_groups(groups) if groups or mounts else parse.Groups(None, None)
    places, why = memory_places(own, mounts)
    if not places:
        return Lineage(V2, (), why, groups)
    for place in places:
        if os.path.isdir(beneath(root, place.levels[0].directory)):
            break
    else:
        # Its parents' limits alone would be too optimistic a guess.
        raise FileNotFoundError(f"{why}, but there is no such directory")
    levels = [Level(level.path, beneath(root, level.directory)) for level in place.levels]
    if place.version == 2:
        return Lineage(V2, tuple(levels), place.why, groups)
    counted = levels[:1]
    for level in levels[1:]:
        if not cgroup_v1.counts_children(level.directory):
            break  # neither this group nor any above it counts what this process uses
        counted.append(level)
    return Lineage(V1, tuple(counted), place.why, groups)


@dataclass(frozen=True, slots=True)
class _Files:
    """The open files of one control group that has the memory controller."""

    path: str
    limit: KeptFile
    usage: KeptFile
    stat: KeptFile
    hidden: int | None = None
    """Version 1: the limit of the group above this one, which cannot be seen; then it is that group."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look found; replaced whole, so that it may be used without a lock."""

    looked: float
    lineage: Lineage
    files: tuple[_Files, ...]
    without: tuple[str, ...]
    """The limit files of groups without the memory controller, which may yet be enabled there."""
    machine: KeptFile | None


class CgroupProvider:
    """Reads every level of the control groups above this process, and the machine.

    The room of a level is its limit less (its usage less its inactive file pages); the least binds.
    Usage is read at the same level as the limit: a group may be full of other groups' memory.
    Works for both versions and for a mixture of them; where no group limits memory, the machine
    does. `memory.high` and soft limits do not count here; see `limits`.

    Args:
        root: The root of the file system; another one than `/` reads a recorded tree.
        clock: Times the looks at where this process is, and stamps the readings.

    Raises:
        UsageError: A wrong argument.

    Threads: may be used from any thread. After a fork the child reads its own groups within 1 s.

    Cost: some 10 µs for the machine, 2 µs for a level without a limit, and 15 µs for one with a limit
        where that may bind; the kernel takes three quarters of it. Once a second some 30 µs more.

    Approximate: the files are read one after the other, not at one moment. Version 1 counts usage
        in batches of some pages for each processor.

    Source: the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst.
    """

    def __init__(self, root: Root = OWN, *, clock: Clock = monotonic) -> None:
        self._root = checked_root(root)
        self._clock = checked_clock(clock)
        self._found: _Found | None = None
        self._closed = False

    @property
    def why(self) -> str:
        """Which hierarchy holds and where it was found, in a sentence."""
        found = self._found
        return found.lineage.why if found is not None else "no reading has succeeded yet"

    def read(self) -> MemoryReading:
        """The state now.

        Raises:
            ReadingUnavailable: A file cannot be read or understood, or nothing limits memory and
                there is no `/proc/meminfo` either.
        """
        if self._closed:
            raise ReadingUnavailable("the provider is closed")
        now = self._clock()
        try:
            found, reading = self._as_before(now) or self._anew(now)
        except (OSError, parse.Malformed) as error:
            self._found = None
            raise ReadingUnavailable(f"memory of the control groups: {error}") from error
        self._keep(found)
        return reading

    def close(self) -> None:
        """Let go of the files; may be called twice, and from any thread."""
        self._closed, self._found = True, None

    def _keep(self, found: _Found) -> None:
        # Whoever closes sets the flag first, so that nothing is kept after that.
        self._found = found
        if self._closed:
            self._found = None

    def _as_before(self, now: float) -> tuple[_Found, MemoryReading] | None:
        """A reading of the open files; None: not everything is where it was."""
        found = self._found
        if found is None:
            return None
        try:
            if 0 <= now - found.looked < LOOK_EVERY:
                return found, _measure(found, now)
            found = self._glance(found, now)
            return None if found is None else (found, _measure(found, now))
        except (OSError, parse.Malformed):
            return None  # perhaps this process was moved and its old group removed

    def _anew(self, now: float) -> tuple[_Found, MemoryReading]:
        """A reading of files that are found and opened anew."""
        found = self._look(now)
        return found, _measure(found, now)

    def _look(self, now: float) -> _Found:
        where = lineage(self._root)
        layout, files, without = where.layout, [], []
        for level in where.levels:
            limit = f"{level.directory}/{layout.limit}"
            try:
                limit_file = KeptFile(limit)
            except FileNotFoundError:
                without.append(limit)
                continue
            usage = KeptFile(f"{level.directory}/{layout.usage}")
            stat = KeptFile(f"{level.directory}/memory.stat")
            files.append(_Files(level.path, limit_file, usage, stat))
        try:
            machine = KeptFile(beneath(self._root, "/proc/meminfo"))
        except FileNotFoundError:
            machine = None
        return _Found(now, where, _with_hidden(layout, files), tuple(without), machine)

    def _glance(self, found: _Found, now: float) -> _Found | None:
        """Whether all is where it was; None: it is not."""
        if read_once(beneath(self._root, "/proc/self/cgroup")) != found.lineage.groups:
            return None
        if any(os.path.exists(path) for path in found.without):
            return None
        return replace(found, looked=now, files=_with_hidden(found.lineage.layout, found.files))


def hidden_path(top: str) -> str:
    """What to call the group above `top`, whose name cannot be seen."""
    return f"a group above {top}"


def working_set(layout: Layout, usage: int, stat: bytes) -> int:
    """What is in use and cannot simply be dropped: usage less inactive file pages."""
    inactive = parse.field(stat, layout.inactive_file)
    if inactive is None:
        raise parse.Malformed(f"memory.stat has no {layout.inactive_file.decode()}")
    return max(0, usage - inactive)


def _measure(found: _Found, now: float) -> MemoryReading:
    layout = found.lineage.layout
    if found.machine is not None:
        total, room = parse.meminfo(found.machine.read())
        used, source, path = total - room, "meminfo", MACHINE
    else:
        total = room = _NONE
        used, source, path = 0, "", ""
    limit = total
    for files in found.files:
        hard = parse.limit(files.limit.read()) if files.hidden is None else files.hidden
        if hard is None or hard > total:
            continue  # the machine ends first
        if hard < limit:
            limit = hard
        usage = parse.number(files.usage.read())
        if hard - usage >= room:
            continue  # room enough even with its file pages: the dear memory.stat stays unread
        inside = working_set(layout, usage, files.stat.read())
        if hard - inside < room:
            room, used, source, path = max(0, hard - inside), inside, layout.source, files.path
    if not path:
        raise parse.Malformed("no control group has a limit, and there is no /proc/meminfo")
    return MemoryReading(limit, used, room, source, path, now)


def _with_hidden(layout: Layout, files: Iterable[_Files]) -> tuple[_Files, ...]:
    """The visible groups, and after them the one above that limits them, where it can be told."""
    visible = tuple(group for group in files if group.hidden is None)
    if layout is not V1 or not visible:
        return visible  # version 2 tells nothing about groups above the mount's root
    top = visible[-1]
    hidden = cgroup_v1.hidden_limit(top.stat.read(), parse.limit(top.limit.read()))
    if hidden is None:
        return visible
    # The usage of the group below stands in: at least that much is used above it too.
    return (*visible, replace(top, path=hidden_path(top.path), hidden=hidden))
