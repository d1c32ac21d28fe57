"""The approximate source: which groups grow, in windows."""

import gc
import sys
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from memquota import UsageError
from memquota.accounting import allocations
from memquota.accounting.sampling import Sampled, Sampling
from tests.accounting.allocation_programs import needs_hooks
from tests.support.watchdog import run_isolated

MIB = 1 << 20


@pytest.fixture
def groups() -> Iterator[list[int]]:
    outer = sys.gettrace()
    sys.settrace(None)  # coverage's own memory is nobody's
    gc.disable()
    numbers = [allocations.register("one"), allocations.register("two")]
    yield numbers
    for number in numbers:
        allocations.release(number)
    gc.enable()
    sys.settrace(outer)


@pytest.fixture
def window(groups: list[int]) -> Iterator[Sampling]:
    """A window that is open until it is stopped."""
    sampling = Sampling(window=3000, every=3000.01)
    opened = threading.Event()
    wait = sampling._ending.wait

    def waited(timeout: float | None = None) -> bool:
        opened.set()
        return wait(timeout)

    sampling._ending.wait = waited  # type: ignore[method-assign]
    with sampling:
        assert opened.wait(60)
        yield sampling


def turn(group: int) -> int:
    assert allocations.enter is not None
    return allocations.enter(group)


def test_what_grows_in_a_window_is_the_groups_that_grew(window: Sampling, groups: list[int]) -> None:
    one, two = groups

    assert turn(one) == 0
    kept = bytearray(4 * MIB)
    assert turn(two) == one
    more = bytearray(2 * MIB)
    assert turn(one) == two
    kept.clear()
    del more
    assert turn(0) == one

    first, second = window.statistics(one), window.statistics(two)
    assert 4 * MIB <= first.grown_bytes < 4.1 * MIB
    assert 5.9 * MIB < first.shrunk_bytes <= 6 * MIB
    assert 2 * MIB <= second.net_bytes < 2.1 * MIB
    assert (first.stretches, second.stretches) == (2, 1)


def test_a_window_that_closes_leaves_its_figures_and_no_trace(window: Sampling, groups: list[int]) -> None:
    turn(groups[0])
    kept = bytearray(MIB)
    turn(0)
    assert window.running
    window.stop()

    assert not window.running
    assert allocations.enter is None
    assert not tracemalloc.is_tracing()
    assert window.statistics(groups[0]).net_bytes >= MIB
    assert (window.windows, window.seconds > 0) == (1, True)
    assert len(kept) == MIB


def test_who_entered_before_the_window_is_nobody(window: Sampling, groups: list[int]) -> None:
    window._place.group, window._place.window = groups[0], 0
    kept = bytearray(MIB)
    assert turn(0) == 0

    assert window.statistics(groups[0]) == Sampled()
    assert window.statistics(0).net_bytes >= MIB
    assert len(kept) == MIB


def test_a_trace_that_somebody_else_began_goes_on(groups: list[int]) -> None:
    tracemalloc.start()
    try:
        sampling = Sampling(window=0.001, every=0.002)
        sampling._ending.set()
        sampling._sample()

        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_one_source_at_a_time(window: Sampling) -> None:
    with pytest.raises(UsageError, match=r"^allocations are being counted already$"):
        Sampling().start()
    with pytest.raises(UsageError, match=r"^allocations are being counted already$"):
        window.start()
    if allocations.available():
        with pytest.raises(UsageError, match=r"^allocations are being counted already$"):
            allocations.start()
    window.stop()
    window.stop()
    with Sampling():
        pass


@needs_hooks
def test_no_sampling_while_counting_exactly() -> None:
    with allocations.tracking(), pytest.raises(UsageError, match=r"^allocations are being counted already$"):
        Sampling().start()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"window": True}, "window must be a number of seconds, not True"),
        ({"window": 0}, r"window must be above 0 and below every \(10 s\), not 0 s"),
        ({"window": 10.0}, r"window must be above 0 and below every \(10 s\), not 10.0 s"),
        ({"window": float("nan")}, r"window must be above 0 and below every \(10 s\), not nan s"),
        ({"every": "1"}, "every must be a number of seconds, not '1'"),
    ],
)
def test_a_window_must_fit(arguments: dict[str, float], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Sampling(**arguments)


def test_samples_are_added_and_subtracted() -> None:
    first, second = Sampled(100, 30, 3), Sampled(50, 10, 1)

    assert first + second == Sampled(150, 40, 4)
    assert first - second == Sampled(50, 20, 2)
    assert first.net_bytes == 70


def test_a_forked_child_samples_nothing_and_may_start() -> None:
    """F41: also in the middle of a window."""
    run_isolated("""
        import os, threading, tracemalloc
        from memquota.accounting import Sampling, allocations

        opened = threading.Event()
        sampling = Sampling(window=3000, every=3000.01)
        wait = sampling._ending.wait
        sampling._ending.wait = lambda timeout: (opened.set(), wait(timeout))
        with sampling:
            assert opened.wait(20)
            assert tracemalloc.is_tracing() and allocations.enter is not None
            if (child := os.fork()) == 0:
                assert not sampling.running
                assert not tracemalloc.is_tracing() and allocations.enter is None
                sampling.stop()
                with Sampling():
                    pass
                if allocations.available():
                    with allocations.tracking():
                        pass
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert sampling.running and tracemalloc.is_tracing()
    """)
