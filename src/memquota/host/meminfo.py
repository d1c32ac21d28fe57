"""The memory of the whole machine, from `/proc/meminfo`."""

from typing import Final

from memquota.clock import Clock, monotonic
from memquota.host import parse
from memquota.host.files import OWN, KeptFile, Root, beneath, checked_root
from memquota.host.readings import MemoryReading, ReadingUnavailable, checked_clock

MACHINE: Final = "machine"
"""The name of the level above all control groups."""


class MeminfoProvider:
    """Reads what the machine has, and knows nothing of control groups.

    Args:
        root: The root of the file system.
        clock: Where the readings' time comes from.

    Raises:
        UsageError: A wrong argument.

    Threads: may be used from any thread.

    Cost: about 10 µs a reading.

    Source: proc_meminfo(5). What is available is the kernel's own estimate.
    """

    def __init__(self, root: Root = OWN, *, clock: Clock = monotonic) -> None:
        self._path = beneath(checked_root(root), "/proc/meminfo")
        self._clock = checked_clock(clock)
        self._file: KeptFile | None = None
        self._closed = False

    def read(self) -> MemoryReading:
        """What the machine has now.

        Raises:
            ReadingUnavailable: The file cannot be read or understood.
        """
        if self._closed:
            raise ReadingUnavailable("the provider is closed")
        try:
            file = self._file
            if file is None:
                self._file = file = KeptFile(self._path)
            total, available = parse.meminfo(file.read())
        except (OSError, parse.Malformed) as error:
            self._file = None  # opened anew by the next reading
            raise ReadingUnavailable(f"{self._path}: {error}") from error
        now = self._clock()
        return MemoryReading(total, total - available, available, "meminfo", MACHINE, now)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._closed, self._file = True, None
