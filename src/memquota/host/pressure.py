"""Pressure stall information: how much time was lost for want of memory.

Source: the kernel's accounting/psi.rst.
"""

from dataclasses import dataclass
from typing import Final

from memquota.clock import Clock, monotonic
from memquota.host import parse
from memquota.host.files import OWN, KeptFile, Root, beneath, checked_root, read_once, read_to_end
from memquota.host.meminfo import MACHINE
from memquota.host.place import unified_places
from memquota.host.readings import PressureReading, ReadingUnavailable, Stall, checked_clock

# Whether this process was moved to another group is looked at this often, in seconds.
LOOK_EVERY: Final = 3.0

NONE_KEPT: Final = "the kernel keeps no memory pressure information"


@dataclass(frozen=True, slots=True)
class PressureFile:
    """The open pressure file that says most about this process."""

    file: KeptFile
    level: str

    def read(self) -> PressureReading:
        """What it says now; raises OSError or Malformed where it cannot be read."""
        some, full = parse.pressure(self.file.read())
        return PressureReading(Stall(*some), Stall(*full), self.level)


def look(root: str) -> tuple[PressureFile, PressureReading] | None:
    """The pressure file of the own control group, else of the machine, and what it says; None: there is neither.

    Only version 2 groups have one; the own group there is asked also when memory is controlled by
    version 1.
    """
    for path, level in [*_of_group(root), (beneath(root, "/proc/pressure/memory"), MACHINE)]:
        try:
            found = PressureFile(KeptFile(path), level)
            return found, found.read()  # it may exist and be switched off
        except (OSError, parse.Malformed):
            continue
    return None


def pressure(root: Root = OWN) -> PressureReading | None:
    """The memory pressure on this process's control group, else on the machine.

    Args:
        root: The root of the file system; another one than `/` reads a recorded tree.

    Returns:
        The reading; None where the kernel keeps none or cannot be asked.

    Raises:
        UsageError: `root` is no path.

    Cost: some 100 µs, since nothing is kept open.

    Source: the kernel's accounting/psi.rst.
    """
    found = look(checked_root(root))
    return found[1] if found is not None else None


class PressureProvider:
    """Lets gates and limiters go by the time that is lost for want of memory.

    What it reads has a `fraction` as other providers' readings have: the share of the last 10 s in which tasks
    waited for memory. A healthy process is near 0, so name thresholds of your own:
    `Gate(tracker, provider=PressureProvider(), high=0.2, hysteresis=0.1)`.

    Args:
        full: Whether the time counts in which all tasks waited, instead of at least one.
        root: The root of the file system; another one than `/` reads a recorded tree.
        clock: Times the looks at where this process is.

    Raises:
        UsageError: A wrong argument.

    Threads: may be used from any thread.

    Cost: about 5 µs; each 3 s some 100 µs more, to notice that the process was moved to another group.

    Approximate: the kernel brings its averages up to date every 2 s.
    """

    def __init__(self, *, full: bool = False, root: Root = OWN, clock: Clock = monotonic) -> None:
        self._full = full
        self._root = checked_root(root)
        self._clock = checked_clock(clock)
        # When it was looked for, and what was found; replaced whole, so that it may be read without a lock.
        self._found: tuple[float, PressureFile] | None = None

    def read(self) -> Stall:
        """How much time is lost now.

        Raises:
            ReadingUnavailable: The kernel keeps no pressure information, or cannot be asked.
        """
        now = self._clock()
        reading = self._as_before(now)
        if reading is None:
            found = look(self._root)
            if found is None:
                self._found = None
                raise ReadingUnavailable(NONE_KEPT)
            file, reading = found
            self._found = now, file
        return reading.full if self._full else reading.some

    def _as_before(self, now: float) -> PressureReading | None:
        found = self._found
        if found is None or not 0 <= now - found[0] < LOOK_EVERY:
            return None
        try:
            return found[1].read()
        except (OSError, parse.Malformed):
            return None  # its group was removed


def _of_group(root: str) -> list[tuple[str, str]]:
    try:
        groups = parse.own_groups(read_once(beneath(root, "/proc/self/cgroup")))
        mounts = parse.mounts(read_to_end(beneath(root, "/proc/self/mountinfo")))
        own = [place.levels[0] for place in unified_places(groups, mounts)]
    except (OSError, parse.Malformed):
        return []
    return [(beneath(root, f"{level.directory}/memory.pressure"), level.path) for level in own]
