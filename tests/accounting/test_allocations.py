"""The public functions of the exact source, also where there is none."""

import platform
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from memquota import UsageError, UsageTypeError
from memquota.accounting import Sampled, Sampling, allocations
from memquota.accounting.allocations import Statistics
from tests.accounting.allocation_programs import enter, needs_hooks, undisturbed


@needs_hooks
def test_a_block_is_the_groups_that_was_current_whoever_frees_it() -> None:
    one, two = allocations.register("one"), allocations.register("two")
    with undisturbed(), allocations.tracking():
        enter(one)
        kept = bytes(1000)
        enter(two)
        del kept
        enter(0)

        assert allocations.statistics(one) == Statistics(1033, 1, 1033, 1)
        assert allocations.statistics(two) == Statistics()
    allocations.release(one)
    allocations.release(two)


@needs_hooks
@pytest.mark.parametrize("size", [1, 7, 8, 9, 511, 512, 513, 65_534, 65_535, 65_536, 10**6])
def test_blocks_of_every_size_are_counted_as_requested(size: int) -> None:
    """Where one is resized, the difference is counted."""
    group = allocations.register("size")
    made, length = bytearray(), size - 1
    before = made.__sizeof__()
    with undisturbed(), allocations.tracking():
        enter(group)
        made = bytearray(length)
        enter(0)
        first = allocations.statistics(group)
        made += b"1234567"
        second, taken = allocations.statistics(group), made.__sizeof__() - before
        del made
        third = allocations.statistics(group)

    assert first == (Statistics(before + size, 2, 0, 0) if size > 1 else Statistics(before, 1, 0, 0))
    if size > 1:
        assert second == Statistics(before + taken, 2, 0, 0)
        assert third == Statistics(before + taken, 2, before + taken, 2)
    allocations.release(group)


@needs_hooks
def test_a_block_beyond_32_bits_is_counted_as_requested() -> None:
    group, length = allocations.register("huge"), 5 * 2**30
    with undisturbed(), allocations.tracking():
        enter(group)
        try:
            made = bytes(length)  # of pages that nobody touches
        except MemoryError:
            pytest.skip("5 GiB of address space cannot be had here")
        finally:
            enter(0)
        first = allocations.statistics(group)
        del made

        assert first == Statistics(length + 33, 1, 0, 0)
        assert allocations.statistics(group) == Statistics(length + 33, 1, length + 33, 1)
    allocations.release(group)


@needs_hooks
def test_a_block_that_shrinks_gives_the_difference_back() -> None:
    group = allocations.register("shrinks")
    with undisturbed(), allocations.tracking():
        enter(group)
        made = bytearray(100_000)
        enter(0)
        made.clear()

        assert allocations.statistics(group) == Statistics(56 + 100_001, 2, 100_000, 0)
    allocations.release(group)


@needs_hooks
def test_statistics_stay_as_they_are_when_counting_has_stopped() -> None:
    group = allocations.register("stays")
    with undisturbed():
        with allocations.tracking():
            enter(group)
            made = bytes(100)
            enter(0)
        del made

        assert allocations.statistics(group) == Statistics(133, 1, 0, 0)
        assert not allocations.running()
        assert allocations.enter is None
    allocations.release(group)


@needs_hooks
def test_starting_twice_is_refused_and_stopping_twice_is_not() -> None:
    allocations.start()
    try:
        assert allocations.running()
        with pytest.raises(UsageError, match=r"^allocations are being counted already$"):
            allocations.start()
        assert allocations.running()
    finally:
        allocations.stop()
    allocations.stop()


@needs_hooks
@pytest.mark.parametrize("interrupted", ["start", "stop"])
def test_a_signal_just_after_it_was_started_or_stopped_leaves_it_stopped(
    monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    hooks = allocations._hooks

    def interrupt() -> None:
        getattr(hooks, interrupted)()
        raise KeyboardInterrupt

    present = {name: getattr(hooks, name) for name in ("start", "stop", "enter")}
    monkeypatch.setattr(allocations, "_hooks", SimpleNamespace(**present | {interrupted: interrupt}))
    with pytest.raises(KeyboardInterrupt), allocations.tracking():
        pass
    monkeypatch.undo()
    status = allocations.status()

    assert status is not None
    assert (status.running, allocations.running(), allocations.enter) == (False, False, None)
    with allocations.tracking():  # it is nobody's
        assert allocations.running()


@needs_hooks
def test_status_says_how_it_is_doing() -> None:
    with allocations.tracking():
        status = allocations.status()
    stopped = allocations.status()

    assert status is not None
    assert (status.running, status.whole, status.missed_objects) == (True, True, 0)
    assert stopped is not None
    assert (stopped.running, stopped.whole) == (False, False)
    assert stopped.table_bytes > 0


@needs_hooks
@pytest.mark.parametrize("wrong", [-1, 65_535, 65_536, 10**30, "1", 1.0, None])
def test_entering_what_is_no_group_changes_nothing(wrong: int) -> None:
    group = allocations.register("group")
    with allocations.tracking():
        enter(group)
        with pytest.raises((ValueError, TypeError, OverflowError)):
            enter(wrong)
        assert enter(0) == group
    allocations.release(group)


def test_there_is_either_an_exact_source_or_a_reason() -> None:
    assert allocations.available() == (allocations.why_not() is None)


def test_groups_have_numbers_whether_allocations_are_counted_or_not() -> None:
    class Something:
        allocation_id = allocations.register("something")

    assert Something.allocation_id > 0
    allocations.statistics(Something())
    allocations.release(Something())
    for use in (allocations.statistics, allocations.release):
        with pytest.raises(UsageError, match=rf"^there is no group with the number {Something.allocation_id}$"):
            use(Something())
    with pytest.raises(UsageError, match=r"^a group's name is a str, not int$"):
        allocations.register(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, "1", 1.0, [], object()])
def test_what_is_no_group_is_refused(wrong: Any) -> None:
    for use in (allocations.statistics, allocations.release, Sampling().statistics):
        with pytest.raises(UsageTypeError, match=r"^a group is a number or has one as allocation_id, unlike "):
            use(wrong)


def test_a_number_that_another_group_gets_while_it_is_released_stays_that_one_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def given_out_again(number: int) -> None:
        assert allocations.register("next") == number

    monkeypatch.setattr(allocations, "_names", {})
    monkeypatch.setattr(allocations, "_hooks", SimpleNamespace(register=lambda: 5, release=given_out_again))
    number = allocations.register("first")
    allocations.release(number)

    assert allocations._names == {5: "next"}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            ModuleNotFoundError("No module named 'x'"),
            (
                "the compiled part was not built when memquota was installed: that takes a C compiler and Python's "
                "headers (Python.h); install memquota again where they are, `pip install -v` shows what failed "
                "(No module named 'x')"
            ),
        ),
        (ImportError("not here"), "the compiled part cannot be loaded: not here"),
    ],
)
def test_without_the_compiled_part_the_rest_works_and_says_why(
    error: ImportError, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocations, "_hooks", None)
    monkeypatch.setattr(allocations, "_missing", error)
    monkeypatch.setattr(allocations, "_names", {})

    assert not allocations.available()
    assert allocations.why_not() == why
    group = allocations.register("group")
    assert allocations.statistics(group) is None
    assert allocations.status() is None
    assert not allocations.running()
    with pytest.raises(UsageError) as raised:
        allocations.start()
    assert str(raised.value) == f"allocations cannot be counted: {why}"
    allocations.stop()
    allocations.release(group)


def test_elsewhere_the_reason_is_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocations, "_missing", ModuleNotFoundError("no"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert allocations.why_not() == "there is no compiled part for Windows"

    monkeypatch.setattr(platform, "python_implementation", lambda: "PyPy")
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    assert allocations.why_not() == "the compiled part hooks into CPython's allocators, and this is PyPy"


@pytest.mark.parametrize("one", [Statistics(), Sampled()])
def test_statistics_combine_with_statistics_alone(one: Any) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = one + 1
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = one - None


def test_statistics_are_added_and_subtracted() -> None:
    first, second = Statistics(100, 10, 30, 3), Statistics(50, 5, 10, 1)

    assert first + second == Statistics(150, 15, 40, 4)
    assert first - second == Statistics(50, 5, 20, 2)
    assert (first.live_bytes, first.live_objects) == (70, 7)
