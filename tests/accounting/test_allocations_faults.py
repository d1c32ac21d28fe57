"""The exact source when memory is short, processes fork, interpreters end, and others hook into the allocators too.

Each in a process of its own: what is tried here are the process's allocators.
"""

import textwrap

import pytest

from tests.accounting.allocation_programs import needs_hooks
from tests.support.watchdog import run_isolated

pytestmark = needs_hooks

ALLOCATORS = ["", "debug", "malloc"]

#: A group each, and what they have.
HEAD = """
import gc, os, sys, threading
from memquota.accounting import allocations
from tests.accounting.allocation_programs import Items, Thing, enter

gc.disable()
one, two = allocations.register("one"), allocations.register("two")
kept = None
places = list(range(1000))  # numbers that are there, rather than made in a group

def live(group):
    found = allocations.statistics(group)
    return found.live_bytes, found.live_objects
"""


def run(source: str, *, allocator: str = "") -> None:
    run_isolated(HEAD + textwrap.dedent(source), env={"PYTHONMALLOC": allocator} if allocator else None)


@pytest.mark.parametrize(
    ("below", "lasting", "allocator"),
    [(True, False, ""), (True, True, ""), (False, False, ""), (True, False, "debug"), (True, False, "malloc")],
)
def test_an_allocation_that_fails_leaves_the_books_as_they_were(below: bool, lasting: bool, allocator: str) -> None:
    """F44: the allocator below ours fails, or one above it, once or from then on; in each step at each allocation."""
    run(
        f"""
        from _testcapi import set_nomemory
        from tests.accounting.allocation_programs import KINDS, CHANGES, program, MAKE
        NEVER = 10 ** 9

        if {below}:
            set_nomemory(NEVER)
        with program(1, 3) as made:
            if not {below}:
                set_nomemory(NEVER)
            # First in nobody's name: the first exception makes what stays.
            for group in [0, made.groups[0]]:
                failed = 0
                for step in [*KINDS, *CHANGES]:
                    for number in range(12):
                        made.make(0, "items", 50, group)
                        made.make(1, "bytearray", 50, group)
                        try:
                            enter(group)
                            set_nomemory(number, 0 if {lasting} else number + 1)
                            try:
                                if step in MAKE:
                                    made.held[2] = MAKE[step](150)
                                elif step == "grow":
                                    made.places[0].thing.append(None)
                                    made.places[0].thing += (None,) * 50
                                    made.places[1].thing += b"x" * 500
                                else:
                                    made.places[0].thing.clear()
                                    made.places[1].thing.clear()
                            finally:
                                set_nomemory(NEVER)
                                enter(0)
                        except MemoryError:
                            failed += 1
                        made.held[2] = None
                        made.places[0].look(group)
                        made.places[1].look(group)
                        made.check()
            assert failed >= 10, failed
            for place in range(3):
                made.drop(place, 0)
            made.check()
        """,
        allocator=allocator,
    )


def test_entering_a_group_without_memory_changes_nothing() -> None:
    """F44"""
    run(
        """
        from _testcapi import set_nomemory
        groups = [allocations.register(str(number)) for number in range(400)]
        with allocations.tracking():
            enter(groups[-1])
            set_nomemory(0)
            try:
                enter(one)  # the number of the one before is no small integer
            except MemoryError:
                failed = True
            set_nomemory(10 ** 9)
            assert failed
            assert enter(0) == groups[-1]
        """
    )


def test_entering_and_leaving_allocates_for_nobody() -> None:
    """Also where the number of the one before is an object that has to be made."""
    run(
        """
        groups = [allocations.register(str(number)) for number in range(400)]
        first, second = groups[-2:]
        with allocations.tracking():
            for _ in range(10):
                enter(first)
                enter(second)
                enter(0)
            assert allocations.statistics(first) == allocations.statistics(second) == allocations.Statistics()
        """
    )


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_forked_child_goes_on_with_the_books_as_they_were(allocator: str) -> None:
    """F41: also with what other threads have allocated and freed, and while they are at it."""
    run(
        """
        go, done = threading.Event(), threading.Event()
        kept, ending, mine = [], [], None

        def work():
            enter(two)
            kept.append(bytes(1000))
            done.set()
            go.wait()
            while not ending:
                bytes(100_000)
            enter(0)

        allocations.start()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        done.wait()
        enter(one)
        mine = [bytes(2000)]
        enter(0)
        own, others = live(one), live(two)
        assert own[0] >= 2033 and others[0] >= 1033
        enter(one)
        child = os.fork()
        if child == 0:
            assert enter(0) == one
            assert live(two) == others
            own = live(one)  # forking allocates in the group, too
            mine.clear()
            assert live(one)[0] <= own[0] - 2033
            kept.clear()
            assert live(two)[0] <= others[0] - 1033
            again = threading.Thread(target=lambda: (enter(two), kept.append(bytes(1000)), enter(0)))
            again.start()
            again.join()
            assert live(two)[0] >= others[0]
            allocations.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert live(one)[0] >= own[0]
        go.set()
        for _ in range(20):
            if (child := os.fork()) == 0:
                enter(one), enter(two), enter(0), live(one), live(two)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        ending.append(True)
        thread.join()
        """,
        allocator=allocator,
    )


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_an_interpreter_that_ends_while_counting_ends_quietly(allocator: str) -> None:
    """F24: with blocks that live, a group that is current, a cycle, and a thread that is in a group."""
    finished = run_isolated(
        HEAD
        + textwrap.dedent("""
            allocations.start()
            enter(one)
            blocks = [bytearray(size) for size in range(1, 5000, 7)]
            cycle = [Thing(3)]
            cycle.append(cycle)
            inside = threading.Event()

            def work():
                enter(two)
                inside.set()
                while True:
                    bytearray(1000)

            threading.Thread(target=work, daemon=True).start()
            inside.wait()
        """),
        timeout=30,
        env={"PYTHONMALLOC": allocator} if allocator else None,
        interpreter_args=("-X", "dev") if not allocator else (),
    )

    assert (finished.stdout, finished.stderr) == ("", "")


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_blocks_may_live_on_when_counting_stops_and_starts_again(allocator: str) -> None:
    run(
        """
        first = allocations.statistics(one)
        assert first is None
        kept = [None] * 1000
        for turn in range(5):
            allocations.start()
            assert live(one) == (0, 0)
            enter(one)
            for place in places:
                kept[place] = bytearray(100)  # in place of one that was counted in the turn before
            enter(0)
            assert live(one) == (157 * 1000, 2000)
            for place in places[:500]:
                kept[place] = None
            assert live(one) == (157 * 500, 1000)
            enter(one)
            allocations.stop()
            bytes(100)
            for place in places[500:600]:
                kept[place] += bytes(1000)
            assert live(one) == (157 * 500, 1000)
        """,
        allocator=allocator,
    )


def test_who_was_in_a_group_when_counting_stopped_is_in_none_when_it_starts() -> None:
    run(
        """
        allocations.start()
        enter(one)
        allocations.stop()
        allocations.start()
        kept = bytes(100)
        assert live(one) == (0, 0)
        assert enter(one) == 0
        kept = bytes(100)
        assert live(one)[0] >= 133
        """
    )


def test_a_thread_that_ends_inside_a_group_leaves_its_figures() -> None:
    run(
        """
        kept = []

        def work():
            room = [None]
            enter(one)
            room[0] = bytes(1000)
            kept.append(room)

        with allocations.tracking():
            for _ in range(50):
                kept.append(None)  # its items are nobody's
                kept.pop()
                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                thread.join()
            blocks = allocations.statistics(one)
            assert blocks.live_bytes >= 50 * 1033
            kept.clear()
            assert live(one)[0] <= blocks.live_bytes - 50 * 1033
        """
    )


def test_tracemalloc_may_start_and_stop_above_us() -> None:
    """What it notes about a block comes to us as well."""
    run(
        """
        import tracemalloc

        def kept_and_dropped():
            global kept
            enter(one)
            kept = bytes(100_000)
            enter(0)
            before = live(one)
            assert before[0] >= 100_033
            kept = None
            assert live(one)[0] <= before[0] - 100_033

        allocations.start()
        tracemalloc.start()
        kept_and_dropped()
        assert allocations.status().whole
        allocations.stop()  # ours stay below, and pass everything on
        before = live(one)
        enter = lambda group: None
        kept = bytes(100_000)
        kept = None
        assert live(one) == before
        enter = lambda group: allocations.enter(group)
        allocations.start()
        assert live(one) == (0, 0)
        kept_and_dropped()
        tracemalloc.stop()
        assert allocations.status().whole
        kept_and_dropped()
        allocations.stop()
        assert not allocations.status().running
        """
    )


def test_whoever_takes_our_hooks_away_is_noticed_and_a_new_start_puts_them_back() -> None:
    run(
        """
        import tracemalloc
        tracemalloc.start()
        allocations.start()
        enter(one)
        kept = bytes(1000)
        enter(0)
        assert allocations.status().whole
        tracemalloc.stop()  # puts back what was there before it, which is not us
        assert not allocations.status().whole
        kept = None
        assert live(one) == (1033, 1)
        allocations.stop()
        for _ in range(2):
            allocations.start()
            assert allocations.status().whole
            enter(one)
            kept = bytes(1000)
            enter(0)
            assert live(one) == (1033, 1)
            kept = None
            assert live(one) == (0, 0)
            allocations.stop()
        """
    )


def test_a_block_freed_behind_our_back_is_found_when_its_place_is_used_again() -> None:
    run(
        """
        import ctypes
        malloc = ctypes.pythonapi.PyMem_RawMalloc
        malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        free = ctypes.CDLL(None).free
        free.restype, free.argtypes = None, [ctypes.c_void_p]

        def addresses():
            for _ in range(100):
                address = malloc(3_000_000)  # as large as this it is the same one each time
                free(address)
                yield address

        list(addresses())
        room = [None] * 100
        allocations.start()
        enter(one)
        for place, address in zip(places, addresses()):
            room[place] = address
        enter(0)
        kinds = len(set(room))
        assert kinds < 50
        found = allocations.statistics(one)
        assert found.allocated_bytes >= 300_000_000
        assert 3_000_000 * kinds <= found.live_bytes < 3_000_000 * kinds + 100_000
        """
    )


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_other_interpreters_are_refused_and_count_for_the_thread_that_runs_them(kind: str) -> None:
    run(
        f"""
        try:
            import _interpreters as interpreters
            other = interpreters.create({kind!r})
        except ImportError:
            import _xxsubinterpreters as interpreters
            other = interpreters.create(isolated={kind == "isolated"})
        refused = '''
        try:
            import memquota.accounting._allocations
        except ImportError as error:
            said = str(error)
            assert "interpreter" in said, said
        else:
            raise AssertionError("not refused")
        '''
        import textwrap
        allocations.start()
        for source in (refused, "kept = [bytes(size) for size in range(1000)]; import json; del kept"):
            enter(one)
            error = interpreters.run_string(other, textwrap.dedent(source))
            enter(0)
            assert error is None, error
        assert live(one)[1] > 0
        interpreters.destroy(other)
        allocations.stop()
        """
    )


def test_numbers_come_back_only_when_nothing_of_theirs_lives() -> None:
    run(
        """
        from memquota import UsageError
        numbers = [one, two]
        with allocations.tracking():
            enter(one)
            kept = bytes(100)
            enter(0)
            while True:
                try:
                    numbers.append(allocations.register("many"))
                except UsageError as error:
                    assert str(error) == "group 'many' cannot be counted: all 65534 groups are in use", error
                    break
            assert numbers == list(range(1, 65_535))
            enter(two)
            allocations.release(one)
            allocations.release(two)
            try:
                allocations.register("many")
            except UsageError:
                pass
            else:
                raise AssertionError("a block lives in one, and a thread is in the other")
            kept = None
            assert allocations.register("first") == one
            assert live(one) == (0, 0)
            enter(0)
            assert allocations.register("second") == two
        """
    )
