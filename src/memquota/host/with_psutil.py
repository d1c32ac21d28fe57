"""The memory of the whole machine on systems without `/proc`, through psutil."""

import psutil

from memquota.clock import Clock, monotonic
from memquota.host.meminfo import MACHINE
from memquota.host.readings import MemoryReading, ReadingUnavailable


class PsutilProvider:
    """Reads what the machine has through psutil (`pip install memquota[host]`).

    It knows nothing of control groups, job objects or other limits below the machine's.

    Args:
        clock: Where the readings' time comes from.

    Threads: may be used from any thread.
    """

    def __init__(self, *, clock: Clock = monotonic) -> None:
        self._clock = clock

    def read(self) -> MemoryReading:
        """What the machine has now.

        Raises:
            ReadingUnavailable: psutil fails.
        """
        try:
            memory = psutil.virtual_memory()
        except (OSError, RuntimeError, psutil.Error) as error:
            raise ReadingUnavailable(f"psutil: {error}") from error
        total, available = int(memory.total), min(int(memory.available), int(memory.total))
        now = self._clock()
        return MemoryReading(total, total - available, available, "psutil", MACHINE, now)


def resident_size_by_psutil() -> int:
    """The resident size of this process in bytes.

    Raises:
        ReadingUnavailable: psutil fails.
    """
    try:
        return int(psutil.Process().memory_info().rss)
    except (OSError, RuntimeError, psutil.Error) as error:
        raise ReadingUnavailable(f"psutil: {error}") from error
