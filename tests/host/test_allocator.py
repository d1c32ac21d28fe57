"""What the C allocator has at hand, where it tells."""

import ctypes.util
import importlib
import platform
from collections.abc import Iterator

import pytest

from memquota import host
from memquota.host.arenas import parse_statistics
from tests.support.watchdog import run_isolated

module = importlib.import_module("memquota.host.allocator")
arenas_module = importlib.import_module("memquota.host.arenas")

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


def forget_what_was_found() -> None:
    module._reader.cache_clear()
    arenas_module._writer.cache_clear()


@pytest.fixture
def no_books(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_what_was_found()
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # a C library without either
    yield
    forget_what_was_found()


@pytest.mark.usefixtures("no_books")
def test_an_allocator_that_tells_nothing_is_none() -> None:
    assert host.allocator() is None
    assert host.arenas() is None


def test_a_system_without_a_process_handle_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> None:
        raise TypeError("bad argument type for built-in operation")  # Windows' words

    forget_what_was_found()
    monkeypatch.setattr("ctypes.CDLL", refuse)

    assert host.allocator() is None
    assert host.arenas() is None
    forget_what_was_found()


# --- CPython's arenas -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs a stream in memory")
def test_the_arenas_tell_what_they_keep() -> None:
    printed = run_isolated("""
        import gc

        from memquota import host

        host.arenas()  # what only the first reading makes, and leaves, is not in the figures
        gc.collect()
        gc.disable()
        before = host.arenas()
        objects = [object() for _ in range(1_000_000)]  # of 16 bytes
        full = host.arenas()
        del objects[:-1]  # the last one keeps its arena
        after = host.arenas()

        print(before.source, 16_000_000 <= full.used - before.used <= 17_000_000)
        print(full.reserved >= full.used + full.available, full.reserved - before.reserved >= 15_000_000)
        print(15_900_000 <= full.used - after.used <= 17_000_000, after.reserved < full.reserved)
    """).stdout

    assert printed.splitlines() == ["CPython True", "True True", "True True"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs a stream in memory")
def test_what_is_free_in_the_arenas_can_be_handed_out_again() -> None:
    printed = run_isolated("""
        from memquota import host

        objects = [object() for _ in range(1_000_000)]
        full = host.arenas()
        objects = objects[::2]
        holes = host.arenas()
        objects += [object() for _ in range(400_000)]
        again = host.arenas()

        print(holes.available - full.available >= 7_000_000, holes.reserved == full.reserved)
        print(again.reserved == full.reserved)
    """).stdout

    assert printed.splitlines() == ["True True", "True"]


def test_without_arenas_there_are_no_books_of_them() -> None:
    source = "from memquota import host; print(host.arenas())"

    assert run_isolated(source, env={"PYTHONMALLOC": "malloc"}).stdout == "None\n"


def test_threads_may_ask_while_others_allocate() -> None:
    run_isolated("""
        import threading
        from memquota import host

        def ask():
            for _ in range(200):
                books = host.arenas()
                assert books is None or books.reserved >= books.used > 0

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            [object() for _ in range(10_000)]
    """)


STATISTICS = b"""\
# arenas allocated current         =                   18
18 arenas * 1048576 bytes/arena    =           18,874,368

# bytes in allocated blocks        =           17,000,000
# bytes in available blocks        =              300,000
13 unused pools * 16384 bytes      =              212,992
Total                              =           18,874,368
"""


def test_the_statistics_are_read_by_their_lines() -> None:
    assert parse_statistics(STATISTICS) == host.AllocatorReading("CPython", 18_874_368, 17_000_000, 512_992)


@pytest.mark.parametrize("line", [b"18 arenas", b"# bytes in allocated", b"# bytes in available", b"13 unused pools"])
def test_statistics_of_another_form_are_unknown(line: bytes) -> None:
    assert parse_statistics(STATISTICS.replace(line, b"something else")) is None
