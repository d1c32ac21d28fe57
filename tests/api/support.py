"""A tracker with a clock of its own, whose every event is kept."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from memquota import Account, Tracker
from memquota.observe import Event
from memquota.testing import FakeClock, ScriptedParticipant

E = TypeVar("E", bound=Event)


class World:
    """What most tests need. Whoever is made later has younger data."""

    def __init__(self, limit: int | str = 1000, **options: Any) -> None:
        self.clock = FakeClock(100.0)
        self.tracker = Tracker(limit, clock=self.clock, **options)
        self.events: list[Event] = []
        self.tracker.subscribe(self.events.append)
        self.holders: list[ScriptedParticipant] = []

    def holder(
        self, name: str = "account", *sizes: int, account: Account | None = None, **options: Any
    ) -> ScriptedParticipant:
        """A participant with items of these sizes, in an account of its own if none is given. The world keeps it."""
        of_account = {key: options.pop(key) for key in list(options) if key in _ACCOUNT_OPTIONS}
        if account is None:
            account = self.tracker.new_account(name, **of_account)
        one = ScriptedParticipant(account, self.clock, **options)
        self.holders.append(one)
        for size in sizes:
            one.put(size)
        self.clock.advance(1)
        return one

    def told(self, kind: type[E]) -> list[E]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def books(self) -> object:
        """All that is in the books, to compare it with what it was."""
        snapshot = self.tracker.snapshot()
        return snapshot.accounts, snapshot.statistics.used, snapshot.statistics.limit, snapshot.statistics.hard_limit


_ACCOUNT_OPTIONS = ("parent", "limit", "hard_limit", "minimum", "priority")


@contextmanager
def raises(kind: type[Exception], text: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expects an error with exactly this text."""
    with pytest.raises(kind) as caught:
        yield caught
    assert str(caught.value) == text


#: One of each kind of order: by time, by the built-in keys, by a key of one's own.
POLICIES: list[Any] = ["oldest_data", "largest", "byte_seconds", lambda candidate: candidate.age]


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """The lines that were logged at this level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]
