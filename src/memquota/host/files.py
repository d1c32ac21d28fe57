"""Files of the kernel that are kept open and read again and again."""

import os
from collections.abc import Callable
from typing import Final, TypeAlias

from memquota.errors import UsageTypeError, UsageValueError
from memquota.host.parse import Malformed

Root: TypeAlias = str | os.PathLike[str]
"""The root of a file system: `/`, or the directory of a recorded tree."""

OWN: Final = "/"
"""The root of the file system that this process sees."""

LONGEST: Final = 64 * 1024
"""No file here is longer, in bytes; one that is is none of the kernel's."""


class KeptFile:
    """An open file that is read from its beginning each time.

    It is closed when nobody refers to it any more, and in no other way: a thread that is still
    reading can then never find its descriptor closed, or used again for another file.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.

    Threads: may be read from any thread.

    Cost: 1 µs and what the kernel needs to write the file.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """The whole file as it is now.

        Raises:
            OSError: It cannot be read; ENODEV: its control group was removed.
            Malformed: It is longer than 64 KiB.
        """
        # One call: the kernel writes these files anew for each, and whole where there is room.
        data = os.pread(self._fd, LONGEST + 1, 0)
        if len(data) > LONGEST:
            raise Malformed(f"{self.path} is longer than {LONGEST} bytes")
        return data

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)


def read_once(path: str) -> bytes:
    """A file that is not kept open; as `KeptFile.read`."""
    return KeptFile(path).read()


def read_to_end(path: str) -> bytes:
    """A file of any length; the list of mounts may have thousands of lines."""
    with open(path, "rb") as file:
        return file.read()


def checked_root(root: Root) -> str:
    """The argument as text, `"/"` where it is that; UsageError where it is no path."""
    try:
        path = os.fspath(root)
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise UsageTypeError(f"root must be the path of a directory, not {root!r}")
    if not path or "\0" in path:
        raise UsageValueError(f"root must be the path of a directory, not {path!r}")
    return path.rstrip("/") or OWN


def beneath(root: str, path: str) -> str:
    """The absolute `path` of a tree that stands at `root`."""
    return root.rstrip("/") + path
