"""Pressure stall information: how much time was lost for want of memory.

Source: the kernel's accounting/psi.rst.
"""

from dataclasses import dataclass

from memquota.host import parse
from memquota.host.files import KeptFile, beneath, read_once, read_to_end
from memquota.host.meminfo import MACHINE
from memquota.host.place import unified_places
from memquota.host.readings import PressureReading, Stall


@dataclass(frozen=True, slots=True)
class PressureFile:
    """The open pressure file that says most about this process."""

    file: KeptFile
    level: str

    def read(self) -> PressureReading:
        """What it says now; raises OSError or Malformed where it cannot be read."""
        some, full = parse.pressure(self.file.read())
        return PressureReading(Stall(*some), Stall(*full), self.level)


def pressure_file(root: str) -> PressureFile | None:
    """The pressure file of the own control group, else of the machine; None: there is neither.

    Only version 2 groups have one; the own group there is asked also when memory is controlled by
    version 1.
    """
    for path, level in [*_of_group(root), (beneath(root, "/proc/pressure/memory"), MACHINE)]:
        try:
            found = PressureFile(KeptFile(path), level)
            found.read()  # it may exist and be switched off
        except (OSError, parse.Malformed):
            continue
        return found
    return None


def pressure(root: str = "/") -> PressureReading | None:
    """The memory pressure on this process's control group, else on the machine.

    Args:
        root: The root of the file system; another one than `/` reads a recorded tree.

    Returns:
        The reading; None where the kernel keeps none or cannot be asked.

    Cost: some 100 µs, since nothing is kept open.

    Source: the kernel's accounting/psi.rst.
    """
    found = pressure_file(root)
    return found.read() if found is not None else None


def _of_group(root: str) -> list[tuple[str, str]]:
    try:
        groups = parse.own_groups(read_once(beneath(root, "/proc/self/cgroup")))
        mounts = parse.mounts(read_to_end(beneath(root, "/proc/self/mountinfo")))
        own = [place.levels[0] for place in unified_places(groups, mounts)]
    except (OSError, parse.Malformed):
        return []
    return [(beneath(root, f"{level.directory}/memory.pressure"), level.path) for level in own]
