"""Live bytes and objects by group: what each component allocated and has not freed.

The exact source is a small compiled part that hooks into CPython's allocators. It is optional: `available()` says
whether this installation has it, and `why_not()` what is missing. `memquota.accounting.sampling` needs no compiler and
is approximate.

A block belongs to the group that is current in the thread that allocates it, until it is freed, whoever frees it. When
it is resized it stays with its group; a block of nobody that is resized becomes the group's that does so. Bytes are
those that were requested, with the garbage collector's header where an object has one, and without what an allocator
rounds up. An object may consist of several blocks: a list has one for itself and one for its items.

`Group` enters and leaves for you; this module is what it stands on.

Threads:
    All functions may be called from any. Figures are exact when no thread is allocating without the GIL at that moment.
    Interpreters besides the main one cannot import the compiled part; what they allocate is nobody's.

Fork:
    The child goes on counting, from the books as they were.
"""

from __future__ import annotations

import platform
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import ModuleType
from typing import Final, Protocol

from attrs import frozen

from memquota.errors import UsageError, UsageTypeError, UsageValueError

_missing: ImportError | None
_hooks: ModuleType | None
try:
    # `from … import` would not say whether it is missing or cannot be loaded.
    import memquota.accounting._allocations as _allocations
except ImportError as error:
    _hooks, _missing = None, error
else:
    _hooks, _missing = _allocations, None

__all__ = [
    "Numbered",
    "Statistics",
    "Status",
    "available",
    "register",
    "release",
    "running",
    "start",
    "statistics",
    "status",
    "stop",
    "tracking",
    "why_not",
]

#: Called with a group's number, or 0 for nobody, whenever another group becomes current in the calling thread; answers
#: with the number of the one before. None while no source is running: then nobody needs to be told. It changes, so
#: read it from the module each time. Costs 20 ns to 45 ns.
enter: Callable[[int], int] | None = None

#: Groups that are registered, by number.
_names: Final[dict[int, str]] = {}

#: Numbers where there is no compiled part to give them out. Nobody looks at a single block there, so none comes back.
_numbers: Final = count(1)

#: Whoever takes the token may set `enter`. Deques, as they are atomic and no lock that a fork could leave taken.
_token: Final = deque([None])

#: The exact source has taken it, when there is something in here.
_running: Final[deque[None]] = deque()

_started = False


class Numbered(Protocol):
    """Whatever has the number of a group."""

    @property
    def allocation_id(self) -> int:
        """The number."""
        ...


@frozen
class Statistics:
    """What a group allocated and freed since counting was started.

    The difference of two is what happened in between; the sum is that of several groups.

    Attributes:
        allocated_bytes: Requested in all; growing a block adds the difference.
        allocated_objects: Blocks.
        freed_bytes: Freed in all, by anybody; shrinking a block adds the difference.
        freed_objects: Blocks.
    """

    allocated_bytes: int = 0
    allocated_objects: int = 0
    freed_bytes: int = 0
    freed_objects: int = 0

    @property
    def live_bytes(self) -> int:
        """Allocated and not freed; of a difference: by how much that grew."""
        return self.allocated_bytes - self.freed_bytes

    @property
    def live_objects(self) -> int:
        """Blocks that were allocated and not freed; of a difference: by how many more there are."""
        return self.allocated_objects - self.freed_objects

    def __add__(self, other: Statistics) -> Statistics:
        if not isinstance(other, Statistics):
            return NotImplemented
        return Statistics(
            self.allocated_bytes + other.allocated_bytes,
            self.allocated_objects + other.allocated_objects,
            self.freed_bytes + other.freed_bytes,
            self.freed_objects + other.freed_objects,
        )

    def __sub__(self, other: Statistics) -> Statistics:
        if not isinstance(other, Statistics):
            return NotImplemented
        return Statistics(
            self.allocated_bytes - other.allocated_bytes,
            self.allocated_objects - other.allocated_objects,
            self.freed_bytes - other.freed_bytes,
            self.freed_objects - other.freed_objects,
        )


@frozen
class Status:
    """How the exact source is doing.

    Attributes:
        running: It was started and not stopped.
        whole: Every allocation reaches it. Another tool that hooks into the allocators may take our hooks away when it
            ends (`tracemalloc.stop()` does so when it was started before us); figures are too high from then on, as
            frees go unseen. Start anew.
        missed_objects: Blocks that were not counted because there was no memory to note them.
        table_bytes: Address space taken to note whose a block is. About a quarter of the memory in which groups'
            blocks lie is resident; it is kept until the process ends.
    """

    running: bool
    whole: bool
    missed_objects: int
    table_bytes: int


def available() -> bool:
    """Whether allocations can be counted exactly in this process."""
    return _hooks is not None


def why_not() -> str | None:
    """Why they cannot; None if they can."""
    if _missing is None:
        return None
    if not isinstance(_missing, ModuleNotFoundError):
        return f"the compiled part cannot be loaded: {_missing}"
    if sys.implementation.name != "cpython":
        return f"the compiled part hooks into CPython's allocators, and this is {platform.python_implementation()}"
    if sys.platform == "win32":
        return "there is no compiled part for Windows"
    return (
        "the compiled part was not built when memquota was installed: that takes a C compiler and Python's headers "
        f"(Python.h); install memquota again where they are, `pip install -v` shows what failed ({_missing})"
    )


def register(name: str) -> int:
    """A number for a group, from 1 on, for `enter` and `statistics`; whether allocations can be counted or not.

    Raises:
        UsageError: There are 65,534 groups that are not released, or of which blocks live.
        UsageTypeError: The name is no `str`.
    """
    if not isinstance(name, str):
        raise UsageTypeError(f"a group's name is a str, not {type(name).__name__}")
    try:
        number = next(_numbers) if _hooks is None else _hooks.register()
    except OverflowError as error:
        raise UsageError(f"group {name!r} cannot be counted: {error}") from error
    _names[number] = name
    return number


def release(group: int | Numbered) -> None:
    """Forget a group; it must not be entered any more. What lives of it is counted for nobody to see.

    Raises:
        UsageError: There is no such group.
    """
    number = _number(group)
    del _names[number]  # first: from then on another group may have the number
    if _hooks is not None:
        _hooks.release(number)


def start() -> None:
    """Count from now on, and from zero. Groups that are entered already count from the next time on.

    Raises:
        UsageError: It is not available, or a source is running already; nothing was changed.
        MemoryError: It was not started; what was counted before may be forgotten.

    Cost:
        While it runs, 4 ns to 9 ns for each allocation in a group and for each free of one; a quarter of the
        memory in which groups' blocks lie.
    """
    global _started, enter  # noqa: PLW0603 - the process has one set of allocators
    if _hooks is None:
        raise UsageError(f"allocations cannot be counted: {why_not()}")
    claim_source()
    try:
        _hooks.start()
    except BaseException:  # or a signal, just after it
        _hooks.stop()
        release_source()
        raise
    _started = True
    enter = _hooks.enter
    _running.append(None)


def stop() -> None:
    """Count no more; statistics stay as they are. Nothing happens when nothing was counted."""
    global enter  # noqa: PLW0603
    try:
        _running.pop()
    except IndexError:
        return
    assert _hooks is not None
    enter = None
    try:
        _hooks.stop()
    finally:  # a signal may come just after it
        release_source()


@contextmanager
def tracking() -> Iterator[None]:
    """Count inside a `with` block; see `start`."""
    start()
    try:
        yield
    finally:
        stop()


def claim_source() -> None:
    """For sources: from now on the caller alone sets `enter`.

    Raises:
        UsageError: Another one does, or the same already.
    """
    try:
        _token.pop()
    except IndexError:
        raise UsageError("allocations are being counted already") from None


def release_source() -> None:
    """For the source that claimed it last: it does not set `enter` any more."""
    _token.append(None)


def running() -> bool:
    """Whether the exact source is counting."""
    return bool(_running)


def status() -> Status | None:
    """How the exact source is doing; None if it is not available."""
    return None if _hooks is None else Status(*_hooks.status())


def statistics(group: int | Numbered) -> Statistics | None:
    """What a group allocated and freed; None if the exact source was never started.

    Args:
        group: The number that `register` gave, or what has it as `allocation_id`.

    Raises:
        UsageError: There is no such group.

    Cost:
        A microsecond, and a few nanoseconds for each thread that entered a group.
    """
    number = _number(group)
    if _hooks is None or not _started:
        return None
    return Statistics(*_hooks.read(number))


def number_of(group: int | Numbered) -> int:
    """For sources: the number of a group.

    Raises:
        UsageTypeError: It is no group.
    """
    number = group if isinstance(group, int) else getattr(group, "allocation_id", None)
    if not isinstance(number, int):
        raise UsageTypeError(f"a group is a number or has one as allocation_id, unlike {group!r}")
    return number


def _number(group: int | Numbered) -> int:
    number = number_of(group)
    if number not in _names:
        raise UsageValueError(f"there is no group with the number {number}")
    return number
