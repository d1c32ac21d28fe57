"""How much memory this process really uses."""

import importlib.util
import os

from memquota.host import parse
from memquota.host.files import OWN, Root, beneath, checked_root, read_once
from memquota.host.readings import ReadingUnavailable


def resident_size(root: Root = OWN) -> int:
    """The resident size of this process in bytes: its pages that are in memory, shared ones included.

    What was swapped out is not in it, nor are the kernel's buffers for the process.

    Args:
        root: The root of the file system; another one than `/` reads a recorded tree.

    Raises:
        ReadingUnavailable: It cannot be told: there is neither `/proc` nor psutil.
        UsageError: `root` is no path.

    Cost: some microseconds.

    Source: proc_pid_statm(5). The kernel adds the count up in batches: a few hundred KiB may be missing.

    Example:
        >>> resident_size() > 1024**2
        True
    """
    root = checked_root(root)
    try:
        pages = parse.number(read_once(beneath(root, "/proc/self/statm")).split()[1])
    except FileNotFoundError:
        if root != OWN or importlib.util.find_spec("psutil") is None:
            raise ReadingUnavailable(f"no resident size: no /proc at {root!r}, and no psutil") from None
        from memquota.host.with_psutil import resident_size_by_psutil

        return resident_size_by_psutil()
    except (OSError, IndexError, parse.Malformed) as error:
        raise ReadingUnavailable(f"no resident size: {error}") from error
    return pages * os.sysconf("SC_PAGE_SIZE")
