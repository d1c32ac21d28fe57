"""What the C allocator keeps for itself: memory that is in use for the kernel and free for us."""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from memquota.host.readings import MemoryReading, Provider


@dataclass(frozen=True, slots=True)
class AllocatorReading:
    """The books of the process's C allocator, in bytes."""

    source: str
    """`"glibc"` or `"jemalloc"`."""
    reserved: int
    """What it has from the kernel."""
    used: int
    """What the program has from it."""
    available: int
    """What was freed and not given back: it can be handed out again without asking the kernel.

    Approximate: not every request fits into it. glibc also counts pages that `malloc_trim` gave
    back.
    """


def allocator() -> AllocatorReading | None:
    """The books of the allocator of this process; None: it tells none.

    jemalloc tells when it is loaded (`mallctl`), else glibc from 2.33 on (`mallinfo2`). musl,
    macOS and Windows tell nothing here. CPython's own arenas are not included: it writes their
    statistics to standard error only (`sys._debugmallocstats`), so their free blocks count as
    used.

    Threads: may be called from any thread; glibc locks each of its arenas for a moment.

    Cost: 1 µs to some milliseconds: glibc walks its lists of free pieces.

    Source: mallinfo(3); jemalloc(3), "MALLCTL NAMESPACE".
    """
    read = _reader()
    return read() if read is not None else None


class CountingAllocator:
    """A provider that adds what the allocator can hand out again to what is available.

    The kernel sees memory that was freed and is kept by the allocator as used. `available` and
    `used` of this provider's readings take it for free, up to what is used at all.

    Args:
        provider: Where the readings come from; closed with this one if it has `close`.

    Threads: as `provider`.

    Cost: `allocator()` each time; put it inside a `CachedProvider`.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def read(self) -> MemoryReading:
        """The state now; raises what the provider raises."""
        reading, books = self._provider.read(), allocator()
        if books is None:
            return reading
        free = min(books.available, reading.used)
        return replace(
            reading,
            used=reading.used - free,
            available=min(reading.available + free, reading.limit),
            source=f"{reading.source} and {books.source}",
        )

    def close(self) -> None:
        """Close the provider; may be called twice."""
        close = getattr(self._provider, "close", None)
        if close is not None:
            close()


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@functools.cache
def _reader() -> Callable[[], AllocatorReading | None] | None:
    try:
        process = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None  # Windows has no such handle
    for name in ("mallctl", "je_mallctl"):
        mallctl = getattr(process, name, None)
        if mallctl is not None:
            mallctl.restype = ctypes.c_int
            mallctl.argtypes = [
                ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
            ]  # fmt: skip
            return functools.partial(_jemalloc, mallctl)
    mallinfo2 = getattr(process, "mallinfo2", None)
    if mallinfo2 is None:
        return None
    mallinfo2.restype = _Mallinfo2
    return functools.partial(_glibc, mallinfo2)


def _glibc(mallinfo2: Callable[[], _Mallinfo2]) -> AllocatorReading:
    info = mallinfo2()
    # Large blocks are mapped one by one (hblkhd) and unmapped when they are freed.
    return AllocatorReading("glibc", info.arena + info.hblkhd, info.uordblks + info.hblkhd, info.fordblks)


def _jemalloc(mallctl: Callable[..., int]) -> AllocatorReading | None:
    epoch = ctypes.c_uint64(1)
    if mallctl(b"epoch", None, None, ctypes.byref(epoch), ctypes.sizeof(epoch)) != 0:
        return None  # its statistics stand still until a new epoch begins
    sizes = []
    for name in (b"stats.mapped", b"stats.allocated", b"stats.resident", b"stats.metadata"):
        size = ctypes.c_size_t()
        length = ctypes.c_size_t(ctypes.sizeof(size))
        if mallctl(name, ctypes.byref(size), ctypes.byref(length), None, 0) != 0:
            return None  # it was built without statistics
        sizes.append(size.value)
    mapped, allocated, resident, metadata = sizes
    return AllocatorReading("jemalloc", mapped, allocated, max(0, resident - metadata - allocated))
