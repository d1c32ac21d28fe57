"""Who keeps whom alive, what ends with what, and what cannot be copied."""

import _thread
import contextvars
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from inspect import currentframe
from types import FrameType
from typing import Any, cast

import pytest

from memquota import (
    Account,
    AccountClosed,
    CloseKind,
    CloseReason,
    Gate,
    Participation,
    ParticipationClosed,
    Reclaimed,
    ReclaimRequest,
    Tracker,
    UsageError,
)
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World, raises
from tests.concurrency.support import soon


class Buffer:
    """A participant that owns its handle, and nothing else."""

    def __init__(self, participation: Participation) -> None:
        self.participation = participation

    def oldest_data(self) -> float | None:
        return None

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        return Reclaimed.COLLAPSING


def dropped(make: Callable[[], Any]) -> Any:
    """What `make` returns, after everything else that it made is gone."""
    result = make()
    gc.collect()
    return result


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_an_account_that_nobody_holds_closes(world: World) -> None:
    """P7: at once, also when it is the first thing that ever happens."""
    reasons: list[CloseReason] = []
    account = world.tracker.new_account("a")
    account.on_close(reasons.append)

    del account

    assert world.tracker.statistics().accounts == 0
    assert reasons == [CloseReason(CloseKind.DROPPED, "a", "nobody held it any more", 100.0)]


def test_a_dropped_account_with_bytes_warns(world: World) -> None:
    """P7: and its bytes are written off."""
    account = world.tracker.new_account("a")
    account.claim(30)
    participant = account.register_participant_with(Buffer)
    participant.participation.claim(12)

    del account
    with pytest.warns(ResourceWarning) as warned:
        used = world.tracker.used

    assert used == 0
    assert [str(warning.message) for warning in warned] == [
        "account 'a' was dropped with 42 bytes still claimed; close it, or keep it"
    ]
    with raises(AccountClosed, "account 'a' is closed: nobody held it any more"):
        participant.participation.claim(1)


OPENERS: dict[str, Callable[[Tracker, Account], Account]] = {
    "tracker": lambda tracker, parent: tracker.new_account("lost"),
    "below a parent": lambda tracker, parent: tracker.new_account("lost", parent=parent),
    "child": lambda tracker, parent: parent.new_child("lost"),
}


@pytest.mark.parametrize("how", OPENERS)
def test_the_warning_names_where_the_account_was_opened(how: str, world: World) -> None:
    """F40: as with a permit; whoever enters the books next has nothing to do with it."""
    opener = OPENERS[how]
    kept = world.tracker.new_account("kept")
    account = opener(world.tracker, kept)
    account.claim(30)

    del account
    with pytest.warns(ResourceWarning) as warned:
        kept.claim(1)

    assert [(warning.filename, warning.lineno) for warning in warned] == [(__file__, opener.__code__.co_firstlineno)]


def test_an_account_that_we_opened_was_opened_by_who_called_us(world: World) -> None:
    """F40: here the account of a gate."""
    gate = Gate(world.tracker, max_concurrent=1)
    line = cast(FrameType, currentframe()).f_lineno - 1

    gate.account.claim(30)
    del gate
    with pytest.warns(ResourceWarning) as warned:
        used = world.tracker.used

    assert used == 0
    assert [(warning.filename, warning.lineno) for warning in warned] == [(__file__, line)]


def test_an_account_that_no_python_code_opened_warns_too(world: World) -> None:
    """F40: a thread may begin with the method itself; where it was opened is not known then."""
    opened: list[Account] = []
    _thread.start_new_thread(list, (map(opened.append, map(world.tracker.new_account, ["lost"])),))
    soon(lambda: opened)
    opened[0].claim(30)

    opened.clear()
    with pytest.warns(ResourceWarning, match=r"^account 'lost' was dropped with 30 bytes still claimed"):
        used = world.tracker.used

    assert used == 0


@pytest.mark.parametrize("limit", [1000, "1GiB"])
def test_a_dropped_account_warns_of_what_is_claimed_not_of_credit(limit: int | str) -> None:
    """P7: no warning where all was given back."""
    tracker = Tracker(limit)
    account = tracker.new_account()
    participant = account.register_participant_with(Buffer)
    participant.participation.claim(12)
    participant.participation.release(12)

    del account

    assert tracker.used == 0
    assert participant.participation.closed


def test_no_warning_for_an_account_whose_participants_died_with_it(world: World) -> None:
    """P7: their bytes went before."""

    def lose() -> None:
        account = world.tracker.new_account()
        participant = account.register_participant_with(Buffer)
        participant.participation.claim(12)
        cycle: list[Any] = [account, participant]
        cycle.append(cycle)

    dropped(lose)

    assert world.tracker.used == 0


def test_a_warning_that_is_an_error_harms_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """P7: the tests' own filter turns it into one; who enters the books next is not to blame."""
    account, other = world.tracker.new_account("a"), world.tracker.new_account("b")
    account.claim(5)
    del account

    other.claim(1)

    assert [record.getMessage() for record in caplog.records] == [
        "a warning filter raised (account 'a' was dropped with 5 bytes still claimed; close it, or keep it)"
    ]
    assert world.tracker.used == 1


def test_a_display_of_warnings_that_fails_harms_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P7: whatever it raises."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("warnings.warn", fail)
    account, other = world.tracker.new_account(), world.tracker.new_account()
    account.claim(5)
    del account

    other.claim(1)

    assert world.tracker.used == 1


def test_a_child_keeps_its_parents_open(world: World) -> None:
    """P7: the one it was made with, those that were added, and theirs: a limit never vanishes."""
    new = world.tracker.new_account
    grandparent = new("grandparent", limit=100)
    child = grandparent.new_child("parent").new_child("child")
    added = new("added")
    child.add_parent(added.new_child("above"))

    del grandparent, added
    gc.collect()

    assert world.tracker.statistics().accounts == 5
    child.claim(5)
    parents = {account.name: account.parents for account in world.tracker.snapshot().accounts}
    assert parents["child"] == ("parent", "above")
    assert parents["parent"] == ("grandparent",)
    child.close()
    del child
    gc.collect()
    assert world.tracker.statistics().accounts == 0


def test_a_parent_does_not_keep_its_children(world: World) -> None:
    """P7: nor does an account keep its participants."""
    parent = world.tracker.new_account("parent")
    child = weakref.ref(parent.new_child("child"))
    participant = weakref.ref(parent.register_participant_with(Buffer))

    gc.collect()

    assert child() is None
    assert participant() is None
    assert world.tracker.statistics().accounts == 1
    assert not parent.closed


# --- trackers ---------------------------------------------------------------------------------------------------------


def test_an_account_keeps_its_tracker() -> None:
    """P7: a tracker is there as long as one of its accounts."""
    account = dropped(lambda: Tracker(1000, name="kept").new_account())

    assert account.tracker.name == "kept"
    account.claim(10)
    assert account.tracker.used == 10


def test_a_participation_keeps_neither_tracker_nor_account_nor_participant() -> None:
    """P7: its claims say that nobody held the account."""
    alive: list[weakref.ref[Any]] = []

    def make() -> Participation:
        tracker = Tracker(1000, clock=FakeClock())
        account = tracker.new_account("a")
        buffer = account.register_participant_with(Buffer)
        buffer.participation.claim(7)
        alive.extend(map(weakref.ref, (tracker, account, buffer)))
        return buffer.participation

    participation = dropped(make)

    assert [one() for one in alive] == [None, None, None]
    with raises(AccountClosed, "account 'a' is closed: nobody held it any more"):
        participation.claim(1)
    participation.release(7)
    assert participation.used == 0
    assert participation.closed


@pytest.mark.parametrize("reclaimer", ["inline", "thread", "task"])
def test_nothing_is_left_of_a_dropped_tracker(reclaimer: str) -> None:
    """P7: neither books nor threads."""
    tracker = Tracker(1000, reclaimer=reclaimer)
    account = tracker.new_account()
    account.claim(10)
    tracker.reclaim(0)
    account.close()
    books = weakref.ref(tracker._books)

    del tracker, account

    for thread in threading.enumerate():
        if thread.name.startswith("memquota"):  # on its way out
            thread.join(30)
    gc.collect()
    assert books() is None


def test_trackers_are_independent_of_each_other() -> None:
    one, other = World(1000), World(1000)
    one.holder("a", 900)
    other.holder("a", 900)

    one.tracker.close()

    assert (one.tracker.used, other.tracker.used) == (0, 900)
    assert not other.holders[0].account.closed


# --- participants -----------------------------------------------------------------------------------------------------


def test_a_dead_participant_ends_its_participation(world: World) -> None:
    """F22: its bytes are written off once; the account lives; who has a handle is told."""
    account = world.tracker.new_account("a")
    account.claim(1)
    participant = account.register_participant_with(Buffer)
    handle = participant.participation.clone()
    handle.claim(100)

    del participant

    assert world.tracker.used == 1
    assert handle.closed
    assert handle.used == 0
    handle.release(100)
    with raises(ParticipationClosed, "participation in account 'a' is over: its participant is gone"):
        handle.claim(1)
    assert not account.closed
    assert_books_balance(world.tracker, 1)


def test_a_participant_that_died_is_not_asked(world: World) -> None:
    """F22: the next one is."""
    first, second = world.holder("first", 600), world.holder("second", 300)
    account = first.account
    handle = first.participation.clone()
    world.holders.remove(first)
    del first

    assert world.tracker.reclaim(299) is not None

    assert not account.closed
    assert second.account.closed
    assert handle.closed


def test_a_handle_that_got_its_credit_by_a_release_claims_nothing_from_it_when_the_account_is_closed() -> None:
    """F6: the handle that had claimed before was closed; the books know who has the credit now."""
    world = World("1GiB")
    holder = world.holder("a", 100_000)
    heir = holder.participation.clone()
    holder.participation.close()
    heir.release(50_000)
    assert heir._credit > 0

    holder.account.close()

    with pytest.raises(AccountClosed):
        heir.claim(1)


def test_a_dropped_handle_ends_the_participation_with_the_last(world: World) -> None:
    holder = world.holder("a", 100)
    clone: Participation | None = holder.participation.clone()

    del holder.participation
    assert holder.account.used == 100
    clone = None

    assert clone is None
    assert holder.account.used == 0
    assert not holder.account.closed
    assert holder.requests == []


@pytest.mark.parametrize("limit", [1000, "1GiB"])
def test_a_handle_that_is_closed_and_dropped_counts_once(limit: int | str) -> None:
    """F7: the others stay open."""
    world = World(limit)
    holder = world.holder("a", 100)
    clones = [holder.participation.clone() for _ in range(3)]
    for _ in range(2):
        clones[0].close()
        clones[0].close()
        del clones[0]
        gc.collect()

    clones[0].claim(1)
    holder.put(10)

    assert not clones[0].closed
    assert clones[0].used == holder.participation.used == 111
    assert_books_balance(world.tracker, 111)


@pytest.mark.parametrize("limit", [1000, "1GiB"])
def test_a_dropped_handle_takes_its_credit_along(limit: int | str) -> None:
    """P1: what its participation still has claimed goes with the last of them."""
    world = World(limit)
    holder = world.holder("a", 100)
    clone = holder.participation.clone()
    clone.claim(5)
    del holder.participation

    clone.claim(6)

    assert_books_balance(world.tracker, 111)
    assert clone.used == 111


# --- participants that own their handle -------------------------------------------------------------------------------


def test_a_participant_can_own_its_handle(world: World) -> None:
    account = world.tracker.new_account()
    made: list[Participation] = []

    def make(participation: Participation) -> Buffer:
        participation.claim(10)  # works already
        made.append(participation)
        return Buffer(participation)

    buffer = account.register_participant_with(make)

    assert buffer.participation is made.pop()
    assert account.used == 10
    del buffer
    assert account.used == 0


class NoParticipant:
    def __init__(self, participation: Participation) -> None:
        participation.claim(10)


class Slotted:
    __slots__ = ()

    def __init__(self, participation: Participation) -> None:
        participation.claim(10)

    oldest_data = Buffer.oldest_data
    reclaim = Buffer.reclaim


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (NoParticipant, "a participant needs a method oldest_data; NoParticipant has none"),
        (lambda participation: None, "a participant needs a method oldest_data; NoneType has none"),
        (Slotted, "Slotted supports no weak references: give it a __weakref__ slot"),
    ],
)
def test_what_is_made_and_no_participant_is_not_registered(world: World, make: Any, text: str) -> None:
    """F25: P8: nothing stays registered, and what was claimed is written off."""
    account = world.tracker.new_account("a")
    before = world.books()

    with raises(UsageError, text) as caught:
        account.register_participant_with(make)
    assert isinstance(caught.value, TypeError)

    assert world.books() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UsageError])
def test_what_making_a_participant_raises_passes(world: World, error: type[BaseException]) -> None:
    """P8: and nothing stays registered."""
    account = world.tracker.new_account("a")
    kept: list[Participation] = []
    before = world.books()

    def make(participation: Participation) -> Buffer:
        kept.append(participation)
        participation.claim(10)
        raise error("no")

    with pytest.raises(error, match=r"^no$"):
        account.register_participant_with(make)

    assert world.books() == before
    assert kept[0].closed
    account.close()
    with pytest.raises(AccountClosed):
        account.register_participant_with(make)
    assert len(kept) == 1


def test_an_account_that_closes_while_a_participant_is_made(world: World) -> None:
    """P8: the participant is there, its handle tells of the end."""
    account = world.tracker.new_account("a")

    def make(participation: Participation) -> Buffer:
        participation.claim(10)
        account.close()
        return Buffer(participation)

    buffer = account.register_participant_with(make)

    assert buffer.participation.closed
    assert world.tracker.used == 0
    with pytest.raises(AccountClosed):
        buffer.participation.claim(1)


def test_a_round_while_a_participant_is_made_can_take_its_account(world: World) -> None:
    """P4: who has claimed and is no participant yet cannot be asked; it counts as data of now."""
    account = world.tracker.new_account("a")
    other = world.holder("other", 300)

    def make(participation: Participation) -> Buffer:
        participation.claim(600)
        world.tracker.reclaim(600)
        return Buffer(participation)

    buffer = account.register_participant_with(make)

    assert other.account.closed
    assert not account.closed
    assert buffer.participation.used == 600


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["tracker", "account", "participation"])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_handles_cannot_be_copied(what: str, duplicate: Callable[[object], object], world: World) -> None:
    """F49: a copy would claim twice what is there once."""
    holder = world.holder("a", 10)
    handle = {"tracker": world.tracker, "account": holder.account, "participation": holder.participation}[what]
    before = world.books()

    with raises(TypeError, f"{what.capitalize()} handles cannot be copied or pickled"):
        duplicate(handle)

    assert world.books() == before


def test_handles_work_in_copied_contexts(world: World) -> None:
    """F49: nothing hangs on the context."""
    holder = world.holder("a", 10)

    contextvars.copy_context().run(holder.put, 20)
    contextvars.Context().run(holder.get)

    assert world.tracker.used == 20


def test_handles_are_made_by_accounts_only() -> None:
    with raises(TypeError, "participations are made by Account.register_participant"):
        Participation()


def test_handles_say_what_they_are(world: World) -> None:
    holder = world.holder("a", 10)

    assert repr(holder.participation) == "<Participation in account 'a'>"
    assert holder.participation.account_name == "a"
    assert repr(world.tracker) == "<Tracker 'tracker', 10 of 1000 bytes>"
    holder.participation.close()
    assert repr(holder.participation) == "<Participation in account 'a', closed>"


def test_a_scripted_participant_keeps_its_account(world: World) -> None:
    one = ScriptedParticipant(world.tracker.new_account("a"), world.clock)
    gc.collect()

    one.put(5)

    assert world.tracker.used == 5
