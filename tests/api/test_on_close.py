"""Callbacks of accounts that close: once, in order, with no lock held."""

import gc
import weakref
from functools import partial
from typing import Any

import pytest

from memquota import (
    AccountClosed,
    CloseKind,
    CloseReason,
    Tracker,
    UsageError,
)
from tests.api.support import World, raises


def test_callbacks_run_once_and_in_order(world: World) -> None:
    """Those of an account in the order in which they were given, those of a parent first."""
    record: list[str] = []
    parent = world.tracker.new_account("parent")
    child = parent.new_child("child")
    child.on_close(lambda reason: record.append(f"child: {reason.text}"))
    for number in range(3):
        parent.on_close(lambda reason, number=number: record.append(f"parent {number}: {reason.text}"))  # type: ignore[misc]

    parent.close()
    parent.close()
    child.close()
    world.tracker.close()

    assert record == [
        "parent 0: closed by hand",
        "parent 1: closed by hand",
        "parent 2: closed by hand",
        "child: closed with 'parent': closed by hand",
    ]


def test_a_callback_for_what_is_closed_runs_at_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    account = world.tracker.new_account("a")
    account.close()
    reasons: list[CloseReason] = []

    take_back = account.on_close(reasons.append)
    account.on_close(lambda _: reasons[7])
    take_back()

    assert reasons == [account.close_reason]
    assert [record.getMessage() for record in caplog.records] == ["on_close raised (a)"]


def test_a_callback_can_be_taken_back(world: World) -> None:
    account = world.tracker.new_account()
    reasons: list[CloseReason] = []
    keep = account.on_close(reasons.append)
    take_back = account.on_close(reasons.append)

    take_back()
    take_back()
    account.close()
    keep()

    assert len(reasons) == 1


def test_what_takes_a_callback_back_does_not_keep_the_account(world: World) -> None:
    """P7: whoever has it may keep it as long as it likes."""
    reasons: list[CloseReason] = []
    take_back = world.tracker.new_account("a").on_close(reasons.append)

    assert world.tracker.statistics().accounts == 0
    assert [reason.kind for reason in reasons] == [CloseKind.DROPPED]
    take_back()


class Unequal:
    """A callback that cannot be compared."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, reason: CloseReason) -> None:
        self.calls += 1

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


def test_callbacks_are_told_apart_by_identity(world: World) -> None:
    """P6: taking one back runs no code of the others."""
    account = world.tracker.new_account()
    first, second = Unequal(), Unequal()
    account.on_close(first)
    take_back = account.on_close(second)

    take_back()
    account.close()

    assert (first.calls, second.calls) == (1, 0)


def test_a_callback_that_raises_is_logged_and_the_others_run(world: World, caplog: pytest.LogCaptureFixture) -> None:
    account = world.tracker.new_account("a")
    reasons: list[CloseReason] = []
    account.on_close(lambda _: reasons[7])
    account.on_close(reasons.append)

    account.close()

    assert len(reasons) == 1
    assert [record.getMessage() for record in caplog.records] == ["on_close raised (a)"]
    assert caplog.records[0].exc_info is not None


def test_an_interrupted_callback_loses_the_others_nothing(world: World) -> None:
    """F12: Ctrl-C in one of them passes; the others run when somebody enters the books next."""
    account, other = world.tracker.new_account(), world.tracker.new_account()
    reasons: list[CloseReason] = []

    def interrupt(_: CloseReason) -> None:
        raise KeyboardInterrupt

    account.on_close(interrupt)
    account.on_close(reasons.append)

    with pytest.raises(KeyboardInterrupt):
        account.close()
    other.claim(1)

    assert reasons == [account.close_reason]


def test_no_callback_runs_before_all_that_closes_has_ended(world: World) -> None:
    """What is below is closed for those that the parent's callback calls, also where a handle had credit."""
    world = World("1GiB")
    parent = world.tracker.new_account("parent")
    child = world.holder("child", 100, parent=parent)
    told: list[BaseException] = []

    def claim(_: CloseReason) -> None:
        for claimer in (child.participation, child.account, parent):
            try:
                claimer.claim(1)
            except AccountClosed as error:
                told.append(error)

    parent.on_close(claim)
    parent.close()

    assert len(told) == 3
    assert world.tracker.used == 0


def test_callbacks_may_use_the_tracker(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """F15: P6: claim, open, close, ask for a round, and give callbacks to what is closing."""
    record: list[str] = []
    account, other = world.tracker.new_account("a"), world.tracker.new_account("b")
    opened = []

    def first(reason: CloseReason) -> None:
        record.append("first")
        opened.append(world.tracker.new_account("c"))
        opened[0].claim(900)
        account.on_close(lambda _: record.append("late"))
        other.close()
        world.tracker.reconfigure(limit=2000)
        world.tracker.reclaim(0)
        record.append("end of first")

    account.on_close(first)
    account.on_close(lambda _: record.append("second"))
    other.on_close(lambda _: record.append("other"))

    account.close()

    assert record == ["first", "late", "end of first", "second", "other"]
    assert caplog.records == []
    assert opened[0].closed
    assert world.tracker.limit == 2000


def test_callbacks_may_drop_their_own_account(world: World) -> None:
    """P7: the tracker holds a callback until it has run, and no longer."""
    held = {"account": world.tracker.new_account("a")}
    ran: list[CloseReason] = []
    box = Box(held, ran)
    held["account"].on_close(box.drop)
    alive = weakref.ref(box)
    del box
    gc.collect()
    assert alive() is not None
    held["account"].close()

    assert len(ran) == 1
    assert alive() is None
    assert world.tracker.statistics().accounts == 0


class Box:
    def __init__(self, held: dict[str, Any], ran: list[CloseReason]) -> None:
        self.held = held
        self.ran = ran

    def drop(self, reason: CloseReason) -> None:
        self.held.clear()
        self.ran.append(reason)


def test_what_is_no_callback_is_refused(world: World) -> None:
    account = world.tracker.new_account()

    with raises(UsageError, "on_close takes a callable, not 5"):
        account.on_close(5)  # type: ignore[arg-type]


def test_what_nobody_would_await_is_refused(world: World) -> None:
    """At once: nothing of it would ever run."""

    async def later(*_: object) -> None: ...

    account = world.tracker.new_account()
    for call, what in (
        (account.on_close, "a callback of on_close"),
        (world.tracker.subscribe, "a hook"),
        (lambda policy: Tracker(1000, policy=policy), "a policy"),
    ):
        for function in (later, partial(later, 1)):
            with raises(UsageError, f"{what} cannot be a coroutine function: nobody would await it") as caught:
                call(function)
            assert isinstance(caught.value, TypeError)
