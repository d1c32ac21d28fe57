"""How much memory there really is: the host's limits and readings, also in containers.

`detect` gives a provider of readings, `limits` every limit and which one is hit first, `pressure`
and `PressureWatch` what the want of memory costs, `allocator` what `malloc` has at hand.
"""

from memquota.host.allocator import AllocatorReading, CountingAllocator, allocator
from memquota.host.cached import CachedProvider
from memquota.host.cgroup import CgroupProvider
from memquota.host.detect import default_quota, detect
from memquota.host.limits import Limit, Limits, limits
from memquota.host.meminfo import MeminfoProvider
from memquota.host.pressure import pressure
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
    "PressureReading",
    "PressureWatch",
    "Provider",
    "ReadingUnavailable",
    "Stall",
    "allocator",
    "default_quota",
    "detect",
    "limits",
    "pressure",
    "resident_size",
]
