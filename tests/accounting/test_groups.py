"""Groups in one thread: blocks, names, statistics, wrong use."""

import contextvars
import copy
import pickle
import re
from collections.abc import Callable, Iterator

import pytest

from memquota import UsageError, accounting
from memquota.accounting import Group, GroupStatistics, _steps
from tests.accounting.group_world import StepClock, inside, seconds, standing_clock
from tests.support.watchdog import run_isolated


@pytest.fixture
def clock() -> Iterator[StepClock]:
    with standing_clock() as standing:
        yield standing


# --- whose time it is -------------------------------------------------------------------------------------------------


def test_time_in_the_block_is_the_groups_and_no_other_time_is(clock: StepClock) -> None:
    group = Group("a")

    clock.compute(5)
    with group:
        clock.compute(2)
    clock.compute(7)
    with group:
        clock.compute(0.5)

    assert seconds(group) == 2.5
    assert group.statistics().calls == 2


def test_time_belongs_to_the_innermost(clock: StepClock) -> None:
    outer, inner = Group("outer"), Group("inner")

    with outer:
        clock.compute(1)
        with inner:
            clock.compute(10)
        clock.compute(2)

    assert (seconds(outer), seconds(inner)) == (3, 10)


def test_a_group_entered_again_counts_once(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    with group:
        clock.compute(1)
        with group, group:
            clock.compute(1)
        clock.compute(1)
        with other, group:
            clock.compute(4)

    assert seconds(group) == 7
    assert group.statistics().calls == 2  # what is entered while one is in it already is no call
    assert seconds(other) == 0


def test_waiting_in_a_block_is_not_computing(clock: StepClock) -> None:
    group = Group("a")

    with group:
        clock.compute(1)
        clock.wait(100)
        clock.compute(1)

    assert seconds(group) == 2


def test_a_block_that_raises_is_left(clock: StepClock) -> None:
    group = Group("a")

    def work() -> None:
        with group:
            clock.compute(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    clock.compute(1)

    assert seconds(group) == 3
    assert inside() == []


def test_the_block_under_way_is_counted_already(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    with group:
        clock.compute(1)
        first = seconds(group)
        clock.compute(1)
        with other:
            clock.compute(5)
            assert seconds(group) == 2
            assert seconds(other) == 5

    assert first == 1


def test_a_short_while_is_taken_from_the_clock_of_real_time(clock: StepClock) -> None:
    group = Group("a")
    with group:
        clock.compute(1)

    before = clock.readings
    with group:
        clock.compute(9e-6)

    assert clock.readings == before
    assert seconds(group) == 1.000009


def test_what_was_taken_for_computed_and_was_not_is_made_up_for_with_the_next_reading(clock: StepClock) -> None:
    group = Group("a")

    with group:
        for _ in range(1000):
            clock.wait(5e-6)
            with Group("other"):
                pass
        taken = seconds(group)
        clock.compute(1)

    assert taken == pytest.approx(5e-3)
    assert seconds(group) == 1


# --- wrong order ------------------------------------------------------------------------------------------------------


def test_leaving_in_the_wrong_order_is_refused_and_changes_nothing(clock: StepClock) -> None:
    outer, inner = Group("outer"), Group("inner")
    outer.__enter__()
    inner.__enter__()
    clock.compute(1)

    text = "group 'outer' cannot be left here: in this thread and task the innermost one is 'inner'"
    with pytest.raises(UsageError, match=re.escape(text)):
        outer.__exit__(None, None, None)

    assert inside() == ["inner", "outer"]
    clock.compute(1)
    inner.__exit__(None, None, None)
    clock.compute(4)
    outer.__exit__(None, None, None)
    assert (seconds(inner), seconds(outer)) == (2, 4)


def test_an_exception_also_leaves_the_blocks_inside_that_were_interrupted_while_they_were_left(
    clock: StepClock,
) -> None:
    outer, inner = Group("outer"), Group("inner")
    outer.__enter__()
    inner.__enter__()
    clock.compute(1)

    outer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    assert inside() == []
    assert _steps.current.get() is None
    assert (seconds(outer), seconds(inner)) == (0, 1)


def test_leaving_what_was_not_entered_is_refused(clock: StepClock) -> None:
    group = Group("a")

    with pytest.raises(UsageError, match=r"'a' cannot be left here: in this thread and task none is entered"):
        group.__exit__(None, None, None)
    with group:
        clock.compute(1)

    assert seconds(group) == 1


async def test_a_block_cannot_be_left_within_the_step_of_a_coroutine_that_was_entered_in_it(clock: StepClock) -> None:
    group = Group("a")

    async def leaves() -> None:
        with pytest.raises(UsageError, match="cannot be left here"):
            group.__exit__(None, None, None)

    with group:
        coroutine = group.run(leaves())
        with pytest.raises(StopIteration):
            coroutine.send(None)
        assert inside() == ["a"]


def test_a_block_that_is_left_in_another_context_leaves_that_one_alone(clock: StepClock) -> None:
    """F49: contexts are copied."""
    group, other = Group("a"), Group("b")
    with group:
        copied = contextvars.copy_context()
        group.__exit__(None, None, None)
        assert copied.run(_steps.current.get) is group
        copied.run(other.__enter__)
        other.__exit__(None, None, None)
        group.__enter__()

    assert _steps.current.get() is None
    assert copied.run(_steps.current.get) is other
    assert inside() == []


# --- statistics -------------------------------------------------------------------------------------------------------


def test_a_delta_is_what_happened_between_two_snapshots(clock: StepClock) -> None:
    group = Group("a")
    with group:
        clock.compute(1)
    earlier = group.statistics()

    with group:
        clock.compute(2)
    delta = group.statistics() - earlier

    assert delta == GroupStatistics(cpu_seconds=2.0, calls=1)


def test_statistics_merge_and_subtract_field_by_field() -> None:
    one = GroupStatistics(cpu_seconds=1.5, calls=2, live_bytes=30, live_objects=4, allocated_bytes=100, freed_bytes=70)
    other = GroupStatistics(
        cpu_seconds=0.25, calls=1, live_bytes=50, live_objects=6, allocated_bytes=60, freed_bytes=10
    )

    assert one.merge(other) == GroupStatistics(
        cpu_seconds=1.75, calls=3, live_bytes=80, live_objects=10, allocated_bytes=160, freed_bytes=80
    )
    assert one - other == GroupStatistics(
        cpu_seconds=1.25, calls=1, live_bytes=-20, live_objects=-2, allocated_bytes=40, freed_bytes=60
    )


def test_what_is_not_available_in_one_is_not_available_in_both() -> None:
    known = GroupStatistics(cpu_seconds=1.0, calls=1, live_bytes=1, live_objects=1, allocated_bytes=1, freed_bytes=0)
    unknown = GroupStatistics(cpu_seconds=None, calls=1)

    assert known.merge(unknown) == GroupStatistics(cpu_seconds=None, calls=2)
    assert known - unknown == unknown - known == GroupStatistics(cpu_seconds=None, calls=0)


def test_statistics_combine_with_statistics_alone() -> None:
    with pytest.raises(UsageError, match=r"merge takes the statistics of a group, not 5"):
        GroupStatistics().merge(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unsupported operand"):
        GroupStatistics() - 5  # type: ignore[operator]


# --- names and identity -----------------------------------------------------------------------------------------------


def test_a_name_finds_the_same_group_each_time() -> None:
    found = accounting.group("test_a_name_finds")

    assert accounting.group("test_a_name_finds") is found
    assert accounting.group("another") is not found
    assert Group("test_a_name_finds") is not found
    assert (found.name, repr(found)) == ("test_a_name_finds", "<Group 'test_a_name_finds'>")


@pytest.mark.parametrize("make", [Group, accounting.group])
@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        (5, TypeError, "a group's name must be text, not 5"),
        (None, TypeError, "a group's name must be text, not None"),
        (b"x", TypeError, "must be text"),
        ("", ValueError, "must be printable text in one line, not ''"),
        ("a\nb", ValueError, "must be printable text in one line"),
    ],
)
def test_a_wrong_name_is_refused(
    make: Callable[[object], object], name: object, kind: type[Exception], text: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(text)) as caught:
        make(name)
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_group_cannot_be_copied(duplicate: Callable[[object], object]) -> None:
    """F49: a group stands for a place in this process's books."""
    with pytest.raises(TypeError, match="Group handles cannot be copied or pickled"):
        duplicate(Group("a"))


# --- without a clock --------------------------------------------------------------------------------------------------


def test_where_threads_have_no_clock_that_is_said_once_and_everything_works() -> None:
    said = run_isolated("""
        import logging, time
        del time.thread_time_ns
        logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
        from memquota.accounting import Group

        groups = [Group("a"), Group("b")]
        for group in groups:
            with group:
                sum(range(10**5))
        assert [group.statistics().cpu_seconds for group in groups] == [None, None]
        assert [group.statistics().calls for group in groups] == [1, 1]
    """)

    assert said.stderr == (
        "memquota.accounting WARNING processor time is not available: this system has no clock for each thread\n"
    )


def test_groups_that_are_alive_when_the_interpreter_ends_say_nothing() -> None:
    """F24"""
    said = run_isolated("""
        import asyncio, threading
        from memquota.accounting import Group, allocations, group

        async def waits():
            await asyncio.sleep(1000)

        kept = Group("a"), group("b")
        if allocations.available():
            allocations.start()
        for each in kept:
            each.__enter__()
        coroutine = kept[0].run(waits())
        async def main():
            coroutine.send(None)
        asyncio.run(main())
        def stays():
            with kept[1]:
                threading.Event().wait()
        threading.Thread(target=stays, daemon=True).start()
        assert kept[0].allocation_id > 0
        kept = (kept, kept[0].statistics())
        cycle = [kept]
        cycle.append(cycle)
    """)

    assert (said.stdout, said.stderr) == ("", "")


def test_where_other_threads_clocks_cannot_be_read_their_blocks_count_when_they_are_left() -> None:
    run_isolated("""
        import threading, time
        del time.pthread_getcpuclockid
        from memquota.accounting import Group

        group, is_in, may_leave = Group("a"), threading.Event(), threading.Event()
        def work():
            with group:
                end = time.thread_time() + 0.02
                while time.thread_time() < end:
                    pass
                is_in.set()
                may_leave.wait()
        thread = threading.Thread(target=work)
        thread.start()
        is_in.wait()
        assert group.statistics().cpu_seconds == 0.0
        may_leave.set()
        thread.join()
        assert group.statistics().cpu_seconds >= 0.02
    """)
