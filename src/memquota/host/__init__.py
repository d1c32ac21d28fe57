"""How much memory there really is: the host's limits and readings, also in containers.

`detect` gives a provider of readings, `limits` every limit and which one is hit first, `pressure`,
`PressureProvider` and `PressureWatch` what the want of memory costs, `allocator` and `arenas` what
`malloc` and CPython have at hand.
"""

from memquota.host.allocator import AllocatorReading, allocator
from memquota.host.arenas import arenas
from memquota.host.cached import CachedProvider
from memquota.host.cgroup import CgroupProvider
from memquota.host.counting import CountingAllocator
from memquota.host.detect import default_quota, detect
from memquota.host.limits import Limit, Limits, limits
from memquota.host.meminfo import MeminfoProvider
from memquota.host.pressure import PressureProvider, pressure
from memquota.host.pressure_watch import PressureWatch
from memquota.host.readings import (
    FixedProvider,
    MemoryReading,
    PressureReading,
    Provider,
    ReadingUnavailable,
    Stall,
)
from memquota.host.resident import resident_size

__all__ = [
    "AllocatorReading",
    "CachedProvider",
    "CgroupProvider",
    "CountingAllocator",
    "FixedProvider",
    "Limit",
    "Limits",
    "MeminfoProvider",
    "MemoryReading",
    "PressureProvider",
    "PressureReading",
    "PressureWatch",
    "Provider",
    "ReadingUnavailable",
    "Stall",
    "allocator",
    "arenas",
    "default_quota",
    "detect",
    "limits",
    "pressure",
    "resident_size",
]
