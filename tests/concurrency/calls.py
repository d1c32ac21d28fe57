"""Calls of every kind, with what may be claimed when one of them fails in the middle."""

from __future__ import annotations

import gc
from collections.abc import Callable

from attrs import frozen

from memquota import Participation, Tracker
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.concurrency.support import InThread

MIB = 2**20


class World:
    """A tracker with 9,000 bytes claimed: 8,000 by the handle of a participant, 1,000 by an account itself."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tracker = Tracker(MIB, clock=self.clock)
        self.account = self.tracker.new_account("a")
        self.holder = ScriptedParticipant(self.account, self.clock)
        self.part: Participation = self.holder.participation
        self.holder.put(5000)
        self.holder.put(3000)
        self.other = self.tracker.new_account("b", limit=MIB)
        self.other.claim(1000)
        self.second, self.third = (ScriptedParticipant(self.tracker.new_account(), self.clock) for _ in range(2))

    def check(self, *used: int) -> None:
        """The lock is free for others, the books say one of these sums, and everything works as ever."""
        assert InThread(self.tracker.statistics).result().limit == MIB
        books = self.tracker._books
        assert not books._inside
        assert not books._delivering
        held = books.enter(lambda: sum(h.in_use() for node in books.ledger.accounts for h in node.live_holdings()))
        assert held in used, f"{held} bytes claimed, not {' or '.join(map(str, used))}"
        assert_books_balance(self.tracker)
        if self.tracker.closed:
            assert self.tracker.used == 0
            return
        self.part.close()
        for account in (self.account, self.other, self.second.account, self.third.account):
            account.close()
        gc.collect()
        assert self.tracker.used == 0
        old, new = (ScriptedParticipant(self.tracker.new_account(name), self.clock) for name in ("old", "new"))
        for holder in (old, new):
            self.clock.advance(1)
            holder.put(700_000)
        assert old.account.closed
        assert not new.account.closed
        assert_books_balance(self.tracker, 700_000)


@frozen
class Case:
    """A call with what may be claimed when it fails half-way, and what is when it does not.

    Of long calls only each `step`-th point is looked at, but in `make soak`.
    """

    call: Callable[[World], object]
    used: tuple[int, ...]
    done: int
    step: int


CASES: dict[str, Case] = {}


def case(*used: int, done: int, step: int = 1) -> Callable[[Callable[[World], object]], Callable[[World], object]]:
    def add(call: Callable[[World], object]) -> Callable[[World], object]:
        CASES[call.__name__] = Case(call, used, done, step)
        return call

    return add


@case(9000, done=29_000)
def claim(world: World) -> None:
    world.part.claim(20_000)


@case(9000, done=4000)
def release(world: World) -> None:
    world.part.release(5000)


@case(9000, done=29_000)
def account_claim(world: World) -> None:
    world.account.claim(20_000)


@case(9000, 29_000, done=9000)  # the release at the end may be interrupted too
def account_claimed(world: World) -> None:
    with world.account.claimed(20_000):
        pass


@case(9000, 8200, done=8300)  # a release of the account's own claims goes through them one by one
def account_release(world: World) -> None:
    world.other.release(700)


@case(9000, done=1000)
def close(world: World) -> None:
    world.part.close()


@case(9000, done=1000)
def destroy(world: World) -> None:
    world.part.destroy()


@case(9000, done=9000)
def clone(world: World) -> None:
    world.part.clone()  # and drops it


@case(9000, done=9000)
def clone_and_close(world: World) -> None:
    clone = world.part.clone()
    clone.close()
    assert not world.part.closed


@case(9000, done=9000)
def register(world: World) -> None:
    world.account.register_participant(world.second)


@case(9000, done=9000)
def register_with(world: World) -> None:
    world.account.register_participant_with(lambda part: world.second)


@case(9000, done=9000)
def resurvey(world: World) -> None:
    world.part.resurvey()


@case(9000, done=9000)
def listen(world: World) -> None:
    world.tracker.subscribe(lambda event: None)()
    world.account.on_close(lambda reason: None)()


@case(9000, done=9000)
def open_tracker(world: World) -> None:
    Tracker("2MiB", low_water="1MiB", hard_limit="3MiB", clock=world.clock, name="another").new_account().claim(5000)


@case(9000, 8000, done=0)
def close_tracker(world: World) -> None:
    world.tracker.close()


@case(9000, done=9000)
def open_account(world: World) -> None:
    world.account.new_child("child", limit=1000)


@case(9000, 8000, done=1000)
def close_account(world: World) -> None:
    world.account.close()


@case(9000, done=9000)
def add_parent(world: World) -> None:
    world.account.add_parent(world.other)


@case(9000, done=9000)
def reconfigure_account(world: World) -> None:
    world.account.reconfigure(limit=MIB, minimum=1, priority=3)


@case(9000, done=9000)
def reconfigure_tracker(world: World) -> None:
    world.tracker.reconfigure(limit=MIB, low_water=MIB * 3 // 4, hard_limit=2 * MIB)


@case(9000, done=9000, step=3)
def look(world: World) -> None:
    world.tracker.statistics()
    world.tracker.snapshot()
    world.tracker.reclaim(0, dry_run=True)


@case(9000, 1000, done=0, step=13)
def reclaim_by_hand(world: World) -> None:
    world.clock.advance(1)
    world.tracker.reclaim(0)


@case(9000, 409_000, 401_000, 400_000, 0, done=700_000, step=13)  # the oldest goes first
def claim_that_runs_a_round(world: World) -> None:
    world.clock.advance(1)
    world.second.put(400_000)
    world.clock.advance(1)
    world.third.put(700_000)
