"""Letting go of many items without holding anybody up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Event, Thread
from typing import Any, Final

from memquota.clock import processor_time

__all__ = ["PIECE", "SLICE", "in_thread", "let_go"]

#: Items that are dropped in one move of the books, or freed in one go: far below 1 ms.
PIECE: Final = 256
#: How long dropping and freeing hold up a thread, or an event loop, at a stretch, in seconds.
SLICE: Final = 0.003
#: How long others run in between, in seconds.
_BREATH: Final = 0.0002


def let_go(items: deque[Any]) -> None:
    """Free items, of which the caller keeps no other reference: at once if that is quick, the rest in a thread.

    Threads:
        Several may let go of the same ones: the end of an account finds a queue that is being shut down.
    """
    started = processor_time()
    while items:
        _free_some(items)
        if processor_time() - started > SLICE:
            in_thread(partial(_free_slowly, items))
            return


def in_thread(act: Callable[[], object]) -> None:
    """Do something in a thread of its own; here where there are no more threads, or the interpreter ends."""
    try:
        Thread(target=act, name="memquota-free", daemon=True).start()
    except RuntimeError:
        act()


def _free_slowly(items: deque[Any]) -> None:
    breath = Event()
    while items:
        _free_some(items)
        breath.wait(_BREATH)


def _free_some(items: deque[Any]) -> None:
    try:
        for _ in range(min(PIECE, len(items))):
            del items[0]
    except IndexError:  # another thread, or a finalizer of theirs, frees them as well
        pass
