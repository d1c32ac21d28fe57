"""Readings in which freed memory that the allocators keep counts as available."""

from dataclasses import replace

from memquota.host.allocator import allocator
from memquota.host.arenas import arenas
from memquota.host.readings import MemoryReading, Provider, ReadingUnavailable, checked_provider
from memquota.host.resident import resident_size


class CountingAllocator:
    """A provider that adds what the allocators can hand out again to what is available.

    The kernel sees memory that was freed and is kept by the C allocator, or in CPython's arenas, as used.
    `available` and `used` of this provider's readings take it for free, up to what is used at all, and up
    to what of the process is in memory beyond what the allocators have handed out.

    Args:
        provider: Where the readings come from; closed with this one if it has `close`.

    Raises:
        UsageError: It is no provider.

    Threads: as `provider`.

    Cost: `allocator()` and `arenas()` each time; put it inside a `CachedProvider`.

    Approximate: glibc has pages in its books that it gave back to the kernel (`malloc_trim`). They are counted
        twice as far as something else is in memory instead, such as mapped files.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = checked_provider(provider)

    def read(self) -> MemoryReading:
        """The state now; raises what the provider raises."""
        reading = self._provider.read()
        books = [each for each in (allocator(), arenas()) if each is not None]
        if not books:
            return reading
        free = min(sum(each.available for each in books), reading.used)
        try:
            free = min(free, max(0, resident_size() - sum(each.used for each in books)))
        except ReadingUnavailable:
            pass  # no /proc: the allocators' word must do
        return replace(
            reading,
            used=reading.used - free,
            available=min(reading.available + free, reading.limit),
            source=" and ".join([reading.source, *(each.source for each in books)]),
        )

    def close(self) -> None:
        """Close the provider; may be called twice."""
        close = getattr(self._provider, "close", None)
        if close is not None:
            close()
