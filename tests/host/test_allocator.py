"""What the C allocator has at hand, where it tells."""

import ctypes.util
import importlib
import platform
from collections.abc import Iterator

import pytest

from memquota import host
from tests.support.watchdog import run_isolated

module = importlib.import_module("memquota.host.allocator")

BOOKS = """
import ctypes
from memquota import host

process = ctypes.CDLL(None)
malloc, free = process.malloc, process.free
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free.argtypes = [ctypes.c_void_p]

before = host.allocator()
pieces = [malloc(4096) for _ in range(4096)]
for piece in pieces:
    ctypes.memset(piece, 1, 4096)
large = malloc(64 * 1024**2)  # mapped by itself
full = host.allocator()
free(large)
for piece in pieces[:-1]:  # the last one keeps the heap from shrinking
    free(piece)
after = host.allocator()

print(before.source)
print(full.used - before.used >= 80 * 1024**2, full.reserved >= full.used + full.available)
print(full.used - after.used >= 79 * 1024**2, after.available - full.available >= 15 * 1024**2)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_glibc_tells_what_it_keeps() -> None:
    printed = run_isolated(BOOKS).stdout.splitlines()

    assert printed == ["glibc", "True True", "True True"]


def test_jemalloc_tells_what_it_keeps_where_it_is_loaded() -> None:
    library = ctypes.util.find_library("jemalloc")
    if library is None:
        pytest.skip("NOT CHECKED: jemalloc is not installed (Debian: libjemalloc2)")
    options = {
        "LD_PRELOAD": library,
        # Pages that are freed stay for as long as the test looks at them.
        "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,tcache:false",
    }

    printed = run_isolated(BOOKS, env=options).stdout.splitlines()

    assert printed == ["jemalloc", "True True", "True True"]


class Books:
    """Stands in for the books of an allocator that this machine does not have."""

    def __init__(self, available: int) -> None:
        self.available = available

    def __call__(self) -> host.AllocatorReading:
        return host.AllocatorReading("glibc", 1000, 1000 - self.available, self.available)


@pytest.fixture
def no_books(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module._reader.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # a C library without either
    yield
    module._reader.cache_clear()


@pytest.mark.usefixtures("no_books")
def test_an_allocator_that_tells_nothing_is_none_and_changes_nothing() -> None:
    assert host.allocator() is None

    provider = host.CountingAllocator(host.FixedProvider(100, 60))
    reading = provider.read()
    assert (reading.available, reading.source) == (40, "fixed")


def test_a_system_without_a_process_handle_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> None:
        raise TypeError("bad argument type for built-in operation")  # Windows' words

    module._reader.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", refuse)

    assert host.allocator() is None
    module._reader.cache_clear()


@pytest.mark.parametrize(
    ("limit", "used", "kept", "expected"),
    [
        (100, 60, 25, (35, 65)),
        (100, 10, 25, (0, 100)),
        (100, 150, 25, (125, 25)),
        (100, 60, 0, (60, 40)),
    ],
)
def test_what_can_be_handed_out_again_counts_as_available(
    monkeypatch: pytest.MonkeyPatch, limit: int, used: int, kept: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(module, "_reader", lambda: Books(kept))
    fixed = host.FixedProvider(limit, used)

    reading = host.CountingAllocator(fixed).read()

    assert (reading.used, reading.available) == expected
    assert (reading.limit, reading.source) == (limit, "fixed and glibc")


def test_no_more_is_available_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullerAbove(host.FixedProvider):
        """The group above has less room than ours, and a larger limit."""

        def read(self) -> host.MemoryReading:
            return host.MemoryReading(100, 390, 10, "fixed", "/above", 0.0)

    monkeypatch.setattr(module, "_reader", lambda: Books(95))

    reading = host.CountingAllocator(FullerAbove(100)).read()

    assert (reading.used, reading.available) == (295, 100)


def test_closing_closes_the_provider_inside() -> None:
    class Closable(host.FixedProvider):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    inside = Closable(1)
    host.CountingAllocator(inside).close()
    host.CountingAllocator(host.FixedProvider(1)).close()

    assert inside.closed == 1
