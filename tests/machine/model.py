"""The outside model: what each handle was told, and what follows from that. It knows nothing of the books' insides."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from memquota import Account, Participation
from memquota.observe import CloseReason


class Acc:
    """An account: its configuration, who is above it, what it claimed itself, and how it ended."""

    def __init__(self, name: str, parents: list[Acc], limit: int | None, hard: int | None, minimum: int, priority: int):
        self.name = name
        self.parents = parents
        self.limit = limit
        self.hard = hard
        self.minimum = minimum
        self.priority = priority
        self.own = 0
        # Why it closed, and how often its callback was called.
        self.ended: CloseReason | None = None
        self.calls = 0
        # Our handle; None when it was dropped. The weak reference tells whether it lives on in its children's.
        self.api: Account | None = None
        self.ref: weakref.ref[Account] | None = None
        # When limits, priority or parents were changed last, in stamps of the world.
        self.changed = 0
        # Its use when a limit came to be below it: it may not grow above that.
        self.reported = 0

    def above(self) -> list[Acc]:
        """This account and every ancestor, each once."""
        found = [self]
        for one in found:
            found.extend(parent for parent in one.parents if parent not in found)
        return found

    @property
    def low_water(self) -> int:
        size = self.limit if self.limit is not None else self.hard
        assert size is not None
        return size * 3 // 4

    def __repr__(self) -> str:
        return self.name


class Part:
    """A participation: what was claimed by all its handles."""

    def __init__(self, acc: Acc) -> None:
        self.acc = acc
        # The participant; None when we let it go. The weak reference tells whether somebody else keeps it.
        self.body: Any = None
        self.ref: weakref.ref[Any] | None = None
        self.lines: list[Line] = []
        self.told = 0
        # Why it ended by itself; what ended with its account has that account's reason.
        self.over: str | None = None
        # Its data, as [time, bytes], oldest first; and since when there is any, in stamps of the world.
        self.items: deque[list[Any]] = deque()
        self.full_since = 0
        self.answer = "collapse"
        self.age = "honest"
        # Whether it ever said something else than the age of its data: its place among the candidates is its own fault.
        self.lied = False
        # Chooses among what a participant may meddle with.
        self.spice = 0

    def behave(self, answer: str, age: str, spice: int) -> None:
        self.answer, self.age, self.spice = answer, age, spice
        self.lied = self.lied or age != "honest"

    @property
    def live(self) -> bool:
        return self.over is None and self.acc.ended is None

    @property
    def honest(self) -> bool:
        """Whether it names the age of its data, and has some."""
        return self.age == "honest" and bool(self.items)

    @property
    def oldest(self) -> float:
        return float(self.items[0][0])

    def took(self, size: int, now: float, stamp: int) -> None:
        if size:
            if not self.items:
                self.full_since = stamp
            self.items.append([now, size])

    def gave(self, size: int) -> None:
        while size and self.items:
            taken = min(size, self.items[0][1])
            self.items[0][1] -= taken
            size -= taken
            if not self.items[0][1]:
                self.items.popleft()

    def __repr__(self) -> str:
        return f"part of {self.acc}"


class Line:
    """One handle of a participation."""

    def __init__(self, part: Part, api: Participation) -> None:
        self.part = part
        self.api: Participation | None = api
        self.closed = False


class Model:
    """All accounts and participations of one tracker."""

    def __init__(self) -> None:
        self.accs: list[Acc] = []
        self.parts: list[Part] = []
        self._below: dict[Acc, set[Acc]] = {}

    def linked(self) -> None:
        """The graph has changed."""
        self._below.clear()

    def below(self, acc: Acc) -> set[Acc]:
        """This account and every descendant."""
        found = self._below.get(acc)
        if found is None:
            found = self._below[acc] = {one for one in self.accs if acc in one.above()}
        return found

    def used(self, acc: Acc | None = None) -> int:
        """What is claimed in all, or below an account, each participation once."""
        inside = None if acc is None else self.below(acc)
        own = sum(one.own for one in (self.accs if inside is None else inside) if one.ended is None)
        return own + sum(one.told for one in self.parts if one.live and (inside is None or one.acc in inside))

    def open_accs(self) -> list[Acc]:
        return [acc for acc in self.accs if acc.ended is None and acc.api is not None]

    def kept(self, acc: Acc) -> bool:
        """Whether its handle is kept: by us, or by the handle of an account below, also of one that is closed."""
        return acc.api is not None or any(self.kept(one) for one in self.accs if acc in one.parents)

    def forget(self) -> None:
        """Keep a few of those that ended: they have to answer rightly, too."""
        ended = [part for part in self.parts if not part.live]
        for part in ended[:-4]:
            self.parts.remove(part)
        gone = [acc for acc in self.accs if acc.ended is not None]
        for acc in gone[:-4]:
            if all(part.acc is not acc for part in self.parts) and all(acc not in one.parents for one in self.accs):
                self.accs.remove(acc)
                if all(one.ended is not None or self.kept(one) for one in self.accs):
                    acc.api = None
                    self.linked()
                else:  # its handle keeps open what is above it
                    self.accs.append(acc)
