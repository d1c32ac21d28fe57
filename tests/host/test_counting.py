"""Freed memory that the allocators keep, counted as available."""

import importlib

import pytest

from memquota import UsageTypeError, host

module = importlib.import_module("memquota.host.counting")


def let_books_be(monkeypatch: pytest.MonkeyPatch, c: int | None, python: int | None, resident: int = 10**6) -> None:
    """What is free in the allocators, each of which has 1000 in use; None: it tells nothing."""

    def books(source: str, available: int | None) -> host.AllocatorReading | None:
        return None if available is None else host.AllocatorReading(source, 1000 + available, 1000, available)

    monkeypatch.setattr(module, "allocator", lambda: books("glibc", c))
    monkeypatch.setattr(module, "arenas", lambda: books("CPython", python))
    monkeypatch.setattr(module, "resident_size", lambda: resident)


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
    let_books_be(monkeypatch, kept, None)

    reading = host.CountingAllocator(host.FixedProvider(limit, used)).read()

    assert (reading.used, reading.available) == expected
    assert (reading.limit, reading.source) == (limit, "fixed and glibc")


def test_both_allocators_count(monkeypatch: pytest.MonkeyPatch) -> None:
    let_books_be(monkeypatch, 25, 5)

    reading = host.CountingAllocator(host.FixedProvider(100, 60)).read()

    assert (reading.used, reading.available, reading.source) == (30, 70, "fixed and glibc and CPython")


def test_allocators_that_tell_nothing_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    let_books_be(monkeypatch, None, None)

    reading = host.CountingAllocator(host.FixedProvider(100, 60)).read()

    assert (reading.used, reading.available, reading.source) == (60, 40, "fixed")


@pytest.mark.parametrize(("resident", "available"), [(1010, 50), (1000, 40), (900, 40)])
def test_what_was_given_back_to_the_kernel_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch, resident: int, available: int
) -> None:
    let_books_be(monkeypatch, 25, None, resident)

    reading = host.CountingAllocator(host.FixedProvider(100, 60)).read()

    assert (reading.used, reading.available) == (100 - available, available)


def test_without_a_resident_size_the_allocators_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    let_books_be(monkeypatch, 25, None)

    def unknown() -> int:
        raise host.ReadingUnavailable("no /proc")

    monkeypatch.setattr(module, "resident_size", unknown)

    assert host.CountingAllocator(host.FixedProvider(100, 60)).read().available == 65


def test_no_more_is_available_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullerAbove(host.FixedProvider):
        """The group above has less room than ours, and a larger limit."""

        def read(self) -> host.MemoryReading:
            return host.MemoryReading(100, 390, 10, "fixed", "/above", 0.0)

    let_books_be(monkeypatch, 95, None)

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


def test_what_is_no_provider_is_refused() -> None:
    with pytest.raises(UsageTypeError, match="a provider must have a method read"):
        host.CountingAllocator(object())  # type: ignore[arg-type]
