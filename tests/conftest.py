"""What holds for every test: both event loops, nothing left running, books that balance, Hypothesis' profiles."""

import asyncio
import functools
import inspect
import os
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from memquota import Tracker
from memquota.testing import assert_books_balance

# No example is judged by the clock: this machine may be busy. A failure prints what reproduces it.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "soak",
    settings.get_profile("default"),
    max_examples=20_000,
    suppress_health_check=[HealthCheck.too_slow],
)
# Whether a mutant is killed must not depend on luck or on the mutant before it; which example
# kills it does not matter.
settings.register_profile(
    "mutants",
    settings.get_profile("default"),
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("MEMQUOTA_TESTS", "default"))

# How long a thread that was told to end may take, in seconds.
_GRACE = 10.0

# Trio keeps its idle worker threads for ten seconds; they hold nothing of ours.
_CACHED_THREADS = "Trio thread"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend = request.param
    assert isinstance(backend, str)
    return backend


@pytest.fixture(autouse=True)
def traced_as_before() -> Iterator[None]:
    """Fails a test that leaves another trace function behind: coverage would see nothing of those after it."""
    before = sys.gettrace()
    yield
    if sys.gettrace() is not before:
        sys.settrace(before)
        pytest.fail("another trace function was left behind")


@pytest.fixture
def untraced() -> Iterator[None]:
    """Without coverage, for who measures what his own code takes."""
    outer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(outer)


@pytest.fixture(autouse=True)
def no_leaked_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a thread running, unless it is marked `leaves_threads`."""
    before = set(threading.enumerate())
    yield
    if request.node.get_closest_marker("leaves_threads"):
        return
    deadline = time.monotonic() + _GRACE
    leaked = []
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(_CACHED_THREADS):
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            leaked.append(thread.name)
    if leaked:
        pytest.fail(f"threads still running after the test: {', '.join(sorted(leaked))}")


@pytest.fixture(autouse=True)
def books_balance(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checks the books of every tracker that is alive when its test ends, unless it is marked `breaks_books`."""
    trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()
    original = Tracker.__init__

    def noted(tracker: Tracker, *args: Any, **kwargs: Any) -> None:
        original(tracker, *args, **kwargs)
        trackers.add(tracker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "__init__", functools.update_wrapper(noted, original))
        yield
    if not request.node.get_closest_marker("breaks_books"):
        for tracker in trackers:
            assert_books_balance(tracker)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Fails an async test that leaves an asyncio task behind; trio's nurseries leave none."""
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _without_leaked_tasks(pyfuncitem.obj)


def _without_leaked_tasks(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def watched(**arguments: Any) -> None:
        try:
            before = asyncio.all_tasks()
        except RuntimeError:  # not in asyncio's loop
            await test(**arguments)
            return
        await test(**arguments)
        if leaked := asyncio.all_tasks() - before:
            names = ", ".join(sorted(str(task.get_coro()) for task in leaked))
            pytest.fail(f"tasks still running after the test: {names}")

    return watched
