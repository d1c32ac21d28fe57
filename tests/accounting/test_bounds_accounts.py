"""Accounts for components: below each other, with what was declared as their limits."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import Any

import pytest

from memquota import (
    BoundsError,
    Reclaimed,
    ReclaimRequest,
    Tracker,
    TrackerClosed,
    UsageError,
    UsageTypeError,
    UsageValueError,
)
from memquota.accounting import Bounds, ComponentRegistry, Report
from tests.support.watchdog import run_isolated

MIB = 1024**2


@pytest.fixture
def tracker() -> Tracker:
    return Tracker("64MiB", strict=True)


@pytest.fixture
def registry() -> ComponentRegistry:
    registry = ComponentRegistry()
    registry.component("sources").declare(Bounds(1, 10))
    registry.component("sources.http").declare(Bounds(2, 20))
    registry.component("sources.file").declare(Bounds(4, 40))
    registry.component("sinks.known").declare(Bounds(8, 80))
    registry.component("sinks.unknown")
    return registry


def limits(registry: ComponentRegistry, tracker: Tracker) -> dict[str, tuple[int | None, int, tuple[str, ...]]]:
    return {one.name: (one.limit, one.minimum, one.parents) for one in tracker.snapshot().accounts}


def test_limits_and_minima_are_those_of_the_component_and_all_below_it(
    registry: ComponentRegistry, tracker: Tracker
) -> None:
    accounts = registry.open_accounts(tracker)

    assert limits(registry, tracker) == {
        "sources": (70, 7, ("tracker",)),
        "sources.http": (20, 2, ("sources",)),
        "sources.file": (40, 4, ("sources",)),
        "sinks": (None, 8, ("tracker",)),
        "sinks.known": (80, 8, ("sinks",)),
        "sinks.unknown": (None, 0, ("sinks",)),
    }
    assert accounts.keys() == limits(registry, tracker).keys()
    assert accounts["sources.http"] is registry.component("sources.http").account


def test_claims_of_a_component_count_for_those_above_it(registry: ComponentRegistry, tracker: Tracker) -> None:
    registry.open_accounts(tracker)

    registry.component("sources.http").account.claim(15)

    used = {one.name: one.used for one in registry.report().root.walk()}
    assert used == {
        "": 15,
        "sources": 15,
        "sources.http": 15,
        "sources.file": 0,
        "sinks": 0,
        "sinks.known": 0,
        "sinks.unknown": 0,
    }


def test_a_component_above_its_firm_limit_gives_memory_back_and_no_other_does(tracker: Tracker) -> None:
    registry = ComponentRegistry()
    registry.component("greedy").declare(Bounds(0, "8MiB"))
    registry.component("other").declare(Bounds(0, "8MiB"))
    accounts = registry.open_accounts(tracker)
    accounts["other"].claim(8 * MIB)
    old, new = accounts["greedy"].new_child("old"), accounts["greedy"].new_child("new")
    old.claim(5 * MIB)
    new.claim(3 * MIB)
    assert not old.closed

    new.claim(1)

    assert old.closed
    assert accounts["greedy"].used == 3 * MIB + 1
    assert accounts["other"].used == 8 * MIB


def test_opening_again_adds_what_has_come_and_follows_what_was_declared_anew(
    registry: ComponentRegistry, tracker: Tracker
) -> None:
    first = registry.open_accounts(tracker)
    registry.component("sources.http").declare(Bounds(3, 30))
    registry.component("sources.socket").declare(Bounds(100))

    second = registry.open_accounts(tracker)

    assert {name: second[name] for name in first} == first
    found = limits(registry, tracker)
    assert found["sources"] == (180, 108, ("tracker",))
    assert found["sources.http"] == (30, 3, ("sources",))
    assert found["sources.socket"] == (100, 100, ("sources",))


def test_opening_again_replaces_what_has_collapsed(registry: ComponentRegistry, tracker: Tracker) -> None:
    first = registry.open_accounts(tracker)
    first["sources"].close()
    assert first["sources.http"].closed

    second = registry.open_accounts(tracker)

    assert second["sinks.known"] is first["sinks.known"]
    assert not any(account.closed for account in second.values())
    assert limits(registry, tracker)["sources.http"] == (20, 2, ("sources",))
    second["sources.http"].claim(10)
    assert second["sources"].used == 10


def test_reset_bounds_take_the_limits_away(registry: ComponentRegistry, tracker: Tracker) -> None:
    accounts = registry.open_accounts(tracker)

    registry.reset()
    assert registry.open_accounts(tracker) == accounts

    assert {limit for limit, _, _ in limits(registry, tracker).values()} == {None}
    assert {minimum for _, minimum, _ in limits(registry, tracker).values()} == {0}


def test_closing_closes_all_and_they_can_be_opened_with_another_tracker(
    registry: ComponentRegistry, tracker: Tracker
) -> None:
    first = registry.open_accounts(tracker)
    first["sources.http"].claim(5)

    registry.close_accounts()
    registry.close_accounts()

    assert all(account.closed for account in first.values())
    assert tracker.used == 0
    with pytest.raises(UsageError, match="component 'sources' has no account: call open_accounts"):
        _ = registry.component("sources").account
    other = Tracker("1MiB", name="other")
    assert registry.open_accounts(other)["sources"].tracker is other


def test_a_second_tracker_waits_until_the_accounts_of_the_first_are_closed(
    registry: ComponentRegistry, tracker: Tracker
) -> None:
    first = registry.open_accounts(tracker)

    with pytest.raises(UsageValueError, match="component 'sources' has an open account of another tracker"):
        registry.open_accounts(Tracker("1MiB"))
    assert not any(account.closed for account in first.values())

    tracker.close()
    assert not any(account.closed for account in registry.open_accounts(Tracker("1MiB")).values())


def test_the_registry_keeps_its_accounts_open(registry: ComponentRegistry, tracker: Tracker) -> None:
    registry.open_accounts(tracker)
    registry.component("sinks.known").account.claim(3)
    gc.collect()

    assert registry.component("sinks.known").account.used == 3
    assert tracker.used == 3


def test_contradictory_bounds_open_nothing(registry: ComponentRegistry, tracker: Tracker) -> None:
    registry.component("bad").declare(Bounds(2, 1))
    registry.component("sinks.worse").declare(Bounds(3, 1))

    with pytest.raises(BoundsError, match="no accounts can be opened for bounds that contradict themselves") as refused:
        registry.open_accounts(tracker)

    assert [line.partition(":")[0] for line in str(refused.value).split("\n")[1::3]] == ["sinks.worse", "bad"]
    assert tracker.snapshot().accounts == ()


def test_a_closed_tracker_opens_nothing(registry: ComponentRegistry, tracker: Tracker) -> None:
    tracker.close()

    with pytest.raises(TrackerClosed):
        registry.open_accounts(tracker)
    with pytest.raises(UsageError, match="has no account"):
        _ = registry.component("sources").account


@pytest.mark.parametrize("nonsense", [None, "512MiB", 5])
def test_what_is_no_tracker_is_refused(registry: ComponentRegistry, nonsense: Any) -> None:
    with pytest.raises(UsageTypeError, match="accounts are opened with a tracker, not"):
        registry.open_accounts(nonsense)


def test_bounds_that_no_account_can_have_come_as_near_as_they_can(tracker: Tracker) -> None:
    registry = ComponentRegistry()
    registry.component("nothing").declare(Bounds(0, 0))
    registry.component("huge").declare(lambda builder: builder.minimum.add(2**62).add(2**62))

    registry.open_accounts(tracker)

    assert limits(registry, tracker) == {
        "nothing": (1, 0, ("tracker",)),
        "huge": (2**62, 2**62, ("tracker",)),
    }


def test_a_disabled_tracker_opens_accounts_too(registry: ComponentRegistry) -> None:
    accounts = registry.open_accounts(Tracker.disabled())

    accounts["sources.http"].claim(10**9)

    assert registry.report().root.used == 0


def test_who_opens_accounts_while_they_are_being_opened_is_refused(tracker: Tracker) -> None:
    registry = ComponentRegistry()
    component = registry.component("x")
    component.declare(Bounds(0, 100))
    account = registry.open_accounts(tracker)["x"]
    refused: list[str] = []

    class Meddler:
        def oldest_data(self) -> float:
            return 0.0

        def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            for meddle in (lambda: registry.open_accounts(tracker), registry.close_accounts):
                try:
                    meddle()
                except UsageError as error:
                    refused.append(str(error))
            component.declare(Bounds(0, 7))
            return Reclaimed.COLLAPSING

    meddler = Meddler()
    part = account.register_participant(meddler)
    part.claim(90)
    component.declare(Bounds(0, 50))

    registry.open_accounts(tracker)  # the new limit starts a round

    assert refused == ["the accounts of this registry are being opened or closed already"] * 2
    assert component.bounds == Bounds(0, 7)
    assert account.closed
    assert registry.open_accounts(tracker)["x"].limit == 7


def test_a_lower_limit_may_close_an_account_whose_turn_is_still_to_come(tracker: Tracker) -> None:
    registry = ComponentRegistry()
    registry.component("a").declare(Bounds(0, 1000))
    registry.component("a.old").declare(Bounds(0, 1000))
    registry.component("a.new").declare(Bounds(0, 1000))
    accounts = registry.open_accounts(tracker)
    accounts["a.old"].claim(500)
    accounts["a.new"].claim(500)
    for name in ("a", "a.old", "a.new"):
        registry.component(name).declare(Bounds(0, 250))

    assert registry.open_accounts(tracker) == accounts

    assert [accounts[name].closed for name in ("a", "a.old", "a.new")] == [False, True, True]
    assert (accounts["a"].limit, accounts["a"].used) == (750, 0)


def test_a_forked_child_needs_nobody_who_held_a_lock() -> None:
    run_isolated("""
        import os, threading
        from memquota import Tracker
        from memquota.accounting import Bounds, ComponentRegistry

        registry = ComponentRegistry()
        registry.component("a").declare(Bounds(1, 2))
        held, go_on = threading.Event(), threading.Event()

        def hold():
            with registry._lock, registry._opening:
                held.set()
                go_on.wait()

        holding = threading.Thread(target=hold)
        holding.start()
        held.wait()
        child = os.fork()
        if not child:
            assert registry.declared().firm == 2
            registry.open_accounts(Tracker("1MiB"))
            os._exit(0)
        go_on.set()
        holding.join()
        assert os.waitpid(child, 0)[1] == 0
    """)


def ask_for_a_report_at_each_line() -> None:
    registry = ComponentRegistry()
    reports: list[Report] = []
    lines = 0
    asking = False

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines, asking
        if not frame.f_code.co_filename.endswith("registry.py"):
            return None
        if event == "line" and not asking:
            lines += 1
            asking = True
            signal.raise_signal(signal.SIGUSR1)
            asking = False
        return trace

    def handle(number: int, frame: object) -> None:
        if lines % 20 == 0:  # not always: walking past it takes lines, too
            registry.component(f"of-signal-{lines}").declare(Bounds(10))
        reports.append(registry.report())

    signal.signal(signal.SIGUSR1, handle)
    sys.settrace(trace)
    registry.component("a").declare(lambda builder: builder.component("b", Bounds(1, 2)))
    registry.declared()
    registry.report()
    sys.settrace(None)

    assert len(reports) == lines > 50
    for number, report in enumerate(reports, 1):
        assert (report.root.minimum or 0) in (10 * (number // 20), 10 * (number // 20) + 1)


def test_a_signal_handler_may_ask_for_a_report_at_any_moment() -> None:
    run_isolated(ask_for_a_report_at_each_line)
