"""Delivering events to whoever subscribed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from memquota._core.events import Event
from memquota.errors import UsageTypeError
from memquota.observe.log import log_callback_failure

__all__ = ["Hook", "Hooks"]

#: Gets every event, one at a time in each thread, with no lock held.
Hook: TypeAlias = Callable[[Event], object]


class Hooks:
    """The subscriptions of one tracker."""

    def __init__(self) -> None:
        #: Who is told. Changed in single steps only, without a lock.
        self.entries: dict[Hook, None] = {}

    def subscribe(self, hook: Hook) -> Callable[[], None]:
        """Deliver events to `hook` until the returned function is called. It may be called more than once."""
        if not callable(hook):
            raise UsageTypeError(f"a hook must be callable, not {hook!r}")

        def entry(event: Event) -> object:  # its own, as the same hook may subscribe twice
            return hook(event)

        self.entries[entry] = None

        def unsubscribe() -> None:
            self.entries.pop(entry, None)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Call every hook; one that raises is logged and removed."""
        for hook in tuple(self.entries):
            try:
                hook(event)
            except Exception:
                self.entries.pop(hook, None)
                log_callback_failure("a hook, which is removed", type(event).__name__)
