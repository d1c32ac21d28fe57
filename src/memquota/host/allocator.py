"""What the C allocator keeps for itself: memory that is in use for the kernel and free for us."""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AllocatorReading:
    """The books of the process's C allocator, in bytes."""

    source: str
    """`"glibc"`, `"jemalloc"`, or `"CPython"` for its arenas."""
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
    """The books of the C allocator of this process; None: it tells none.

    jemalloc tells when it is loaded (`mallctl`), else glibc from 2.33 on (`mallinfo2`). musl,
    macOS and Windows tell nothing here. CPython's own arenas are not in it: see `arenas`.

    Threads: may be called from any thread; glibc locks each of its arenas for a moment.

    Cost: 1 µs to some milliseconds: glibc walks its lists of free pieces.

    Source: mallinfo(3); jemalloc(3), "MALLCTL NAMESPACE".
    """
    read = _reader()
    return read() if read is not None else None


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
