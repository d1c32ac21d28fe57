"""Which source of memory readings holds on this machine, and the quota that fits what it says."""

import importlib.util
import os
from typing import Final, SupportsIndex

from memquota.clock import Clock, monotonic
from memquota.errors import UsageValueError
from memquota.host.cached import CachedProvider
from memquota.host.cgroup import CgroupProvider
from memquota.host.counting import CountingAllocator
from memquota.host.files import OWN, Root, beneath, checked_root
from memquota.host.meminfo import MeminfoProvider
from memquota.host.readings import Provider, ReadingUnavailable
from memquota.sizes import parse_size

_MIB: Final = 1024**2
_GIB: Final = 1024**3


def detect(root: Root = OWN, *, clock: Clock = monotonic, count_allocator: bool = False) -> CachedProvider:
    """The provider that fits this machine.

    Control groups of either version, and the machine where none limits memory, on Linux; the
    machine through psutil elsewhere, where that is installed. Nothing is read yet: where the files
    cannot be read, the provider's `read` says so, each time, until they can.

    Args:
        root: The root of the file system; another one than `/` reads a recorded tree.
        clock: Times how often the files are read, and stamps the readings.
        count_allocator: Whether what the allocators have freed and kept counts as available; it
            makes a reading cost up to some milliseconds (see `CountingAllocator`).

    Returns:
        A provider that is read at most every 100 ms. Close it, or let it go.

    Raises:
        ReadingUnavailable: There is neither `/proc` nor psutil.
        UsageError: A wrong argument.

    Example:
        >>> with detect() as provider:
        ...     reading = provider.read()
        >>> reading.available <= reading.limit
        True
    """
    root = checked_root(root)
    provider: Provider
    if os.path.exists(beneath(root, "/proc/self/cgroup")):
        provider = CgroupProvider(root, clock=clock)
    elif os.path.exists(beneath(root, "/proc/meminfo")):
        provider = MeminfoProvider(root, clock=clock)
    elif root == OWN and importlib.util.find_spec("psutil") is not None:
        from memquota.host.with_psutil import PsutilProvider

        provider = PsutilProvider(clock=clock)
    else:
        raise ReadingUnavailable(f"no source of memory readings: no /proc at {root!r}, and psutil is not installed")
    if count_allocator:
        provider = CountingAllocator(provider)
    return CachedProvider(provider, clock=clock)


def default_quota(limit: SupportsIndex | str) -> int:
    """The quota, in bytes, of a program that was told none, from the limit it runs under.

    75 % of a limit below 8 GiB and 40 % of one from there on, but not less than 256 MiB nor more
    than 8 GiB. The least is more than a limit below 256 MiB: there, name a quota yourself.

    Args:
        limit: The effective limit (`MemoryReading.limit`), in bytes or as text.

    Raises:
        UsageError: `limit` is no size, or 0.

    Source: the rule of C Tor (`compute_real_max_mem_in_queues` in src/app/config/config.c) and of
        arti (`compute_max_from_total_system_mem` in crates/tor-memquota/src/config.rs) on 64-bit
        systems; both stop at 2 GiB on 32-bit ones.

    Example:
        >>> default_quota("4GiB") == 3 * 1024**3
        True
    """
    size = parse_size(limit, what="limit")
    if size == 0:
        raise UsageValueError("limit must not be 0: it leaves no memory to share out")
    share = size * 2 // 5 if size >= 8 * _GIB else size * 3 // 4
    return min(max(share, 256 * _MIB), 8 * _GIB)
