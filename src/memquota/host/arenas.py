"""What CPython's own allocator keeps for itself: the arenas that small objects live in."""

import ctypes
import functools
import re
import sys
from collections.abc import Callable
from typing import Final

from memquota.host.allocator import AllocatorReading

# The lines of the statistics that count; numbers have commas in them.
_RESERVED: Final = re.compile(rb"^\d+ arenas \* \d+ bytes/arena\s*=\s*([\d,]+)$", re.MULTILINE)
_USED: Final = re.compile(rb"^# bytes in allocated blocks\s*=\s*([\d,]+)$", re.MULTILINE)
_FREE_BLOCKS: Final = re.compile(rb"^# bytes in available blocks\s*=\s*([\d,]+)$", re.MULTILINE)
_FREE_POOLS: Final = re.compile(rb"^\d+ unused pools \* \d+ bytes\s*=\s*([\d,]+)$", re.MULTILINE)


def arenas() -> AllocatorReading | None:
    """The books of CPython's arenas, where objects of up to 512 bytes live; None: they cannot be read.

    CPython tells them as text only, to whatever stream of the C library it is given. They cannot be read
    on Windows, on other Pythons, without the GIL, nor with `PYTHONMALLOC=malloc`.

    Threads: may be called from any thread; all threads of Python stand still meanwhile.

    Cost: about 0.2 ms, and some milliseconds more for each GiB of arenas.

    Approximate: a free piece serves objects of one size only, until all of its pool (16 KiB) is free; pools that
        were never used are not in memory yet and count as available.

    Source: `_PyObject_DebugMallocStats` in CPython's Objects/obmalloc.c, which `sys._debugmallocstats` calls.

    Example:
        >>> books = arenas()
        >>> books is None or books.reserved >= books.used
        True
    """
    write = _writer()
    return parse_statistics(write()) if write is not None else None


def parse_statistics(text: bytes) -> AllocatorReading | None:
    """The books in the text that CPython writes; None: they are not in it."""
    found = [line.search(text) for line in (_RESERVED, _USED, _FREE_BLOCKS, _FREE_POOLS)]
    sizes = [int(match[1].replace(b",", b"")) for match in found if match is not None]
    if len(sizes) != len(found):
        return None
    reserved, used, blocks, pools = sizes
    return AllocatorReading("CPython", reserved, used, blocks + pools)


@functools.cache
def _writer() -> Callable[[], bytes] | None:
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    try:
        library = ctypes.CDLL(None)
        open_stream, close, free = library.open_memstream, library.fclose, library.free
        statistics = ctypes.pythonapi._PyObject_DebugMallocStats  # with the GIL held
    except (OSError, TypeError, AttributeError):
        return None
    open_stream.restype = ctypes.c_void_p
    open_stream.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t)]
    close.argtypes = free.argtypes = statistics.argtypes = [ctypes.c_void_p]

    def write() -> bytes:
        text, length = ctypes.c_void_p(), ctypes.c_size_t()
        stream = open_stream(ctypes.byref(text), ctypes.byref(length))
        if not stream:
            return b""  # no memory for it
        try:
            statistics(stream)
        finally:
            close(stream)
        try:
            return ctypes.string_at(text.value, length.value) if text.value else b""
        finally:
            free(text)

    return write
