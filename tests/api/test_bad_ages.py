"""Participants that fail or lie when they are asked for their age: they hurt themselves, and nobody else (P5)."""

import gc
from collections.abc import Callable
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from memquota import Participation, ParticipationClosed, Reclaimed, ReclaimRequest
from memquota.observe import ParticipationEnded, RoundEnded, RoundOutcome, VictimAsked
from memquota.testing import ScriptedParticipant, assert_books_balance
from tests.api.support import World, logged, raises


def test_who_raises_when_asked_for_its_age_is_detached(any_policy: World, caplog: pytest.LogCaptureFixture) -> None:
    """F11: P5: its bytes are written off, the log names it, the round goes on, whoever claimed notices nothing."""
    world = any_policy
    bad = world.holder("bad", 400, age="raise")
    rest = world.tracker.new_account("rest")

    rest.claim(700)

    assert (bad.surveys, bad.requests) == (1, [])
    assert not bad.account.closed
    assert (bad.account.used, rest.used) == (0, 700)
    why = "raised RuntimeError when it was asked for its age"
    assert world.told(ParticipationEnded) == [ParticipationEnded("bad", "ScriptedParticipant", why, 400)]
    assert f"participant ScriptedParticipant of account 'bad' {why}" in logged(caplog)
    assert world.tracker.statistics().counts.detached == 1
    (ended,) = world.told(RoundEnded)
    assert (ended.outcome, ended.victims) == (RoundOutcome.DONE, 0)
    with raises(ParticipationClosed, f"participation in account 'bad' is over: {why}"):
        bad.put(1)
    bad.participation.release(400)
    assert_books_balance(world.tracker, 700)


def test_a_detached_claimer_is_told(world: World) -> None:
    """F11: where it is its own claim that finds out."""
    bad = world.holder("bad", 400, age="raise", reentrant=True)
    good = world.holder("good", 500)

    with raises(
        ParticipationClosed,
        "participation in account 'bad' is over: raised RuntimeError when it was asked for its age",
    ):
        bad.put(200)

    assert world.tracker.used == good.held == 500


def test_an_account_outlives_a_detached_participant(world: World) -> None:
    """F11: others in it go on, and another one can register."""
    bad = world.holder("a", 400, age="raise")
    good = world.holder("a", 300, account=bad.account)

    world.tracker.reclaim(300)
    another = world.holder("a", 100, account=bad.account)

    assert good.requests == []
    assert (good.participation.used, another.participation.used, bad.account.used) == (300, 100, 400)


@pytest.mark.parametrize(
    "answer", [nan, "yesterday", b"", [], object(), True, 1j, Decimal(5), type, NotImplemented], ids=repr
)
def test_nonsense_for_an_age_is_very_old(world: World, answer: object, caplog: pytest.LogCaptureFixture) -> None:
    """F13: and said in the log; the candidates' order never meets it."""
    bad = world.holder("bad", 200, age=lambda _: answer)
    honest = world.holder("honest", 300)

    world.tracker.reclaim(300)

    assert bad.account.closed
    assert honest.requests == []
    what = "NaN" if isinstance(answer, float) else f"an object of type {type(answer).__name__}"
    assert logged(caplog) == [
        f"participant ScriptedParticipant of account 'bad' answered {what} for the time of its oldest data"
    ]
    (asked,) = world.told(VictimAsked)
    assert asked.why == "holds the oldest data: of unknown age, which counts as very old"
    assert asked.age is None


class LyingFloat(float):
    """A float whose every operation lies or fails."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("foreign code was run")

    __add__ = __radd__ = __sub__ = __rsub__ = __float__ = __bool__ = __repr__ = __str__ = __format__ = _fail
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = __ne__ = __hash__ = _fail


class LyingInt(int):
    """The same for integers."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("foreign code was run")

    __add__ = __radd__ = __sub__ = __rsub__ = __float__ = __int__ = __index__ = __bool__ = __repr__ = __str__ = _fail
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = __ne__ = __hash__ = _fail


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        (99.5, "odd"),
        (LyingFloat(99.5), "odd"),
        (99, "odd"),
        (LyingInt(99), "odd"),
        (-inf, "odd"),
        (-(10**400), "odd"),
        (-5e300, "odd"),
        (LyingFloat(100.5), "honest"),
        (LyingInt(101), "honest"),
        (1e9, "honest"),
        (inf, "honest"),
        (10**400, "honest"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_number_is_an_age(world: World, answer: Any, first: str, caplog: pytest.LogCaptureFixture) -> None:
    """F13: a time in the future is now; a subclass is taken by its value, and none of its code is run."""
    odd = world.holder("odd", 200, age=lambda _: answer)
    world.clock.set(100.0)
    honest = world.holder("honest", 200)
    world.clock.advance(5)

    world.tracker.reclaim(200)

    assert odd.account.closed is (first == "odd")
    assert honest.account.closed is (first == "honest")
    assert logged(caplog) == []


def test_a_time_in_the_future_is_now(world: World) -> None:
    """F13: everybody else's data is older."""
    dreamer = world.holder("dreamer", 100, age="future")
    others = [world.holder(f"h{n}", 100) for n in range(3)]

    world.tracker.reclaim(100)

    assert [one.account.closed for one in others] == [True, True, True]
    assert not dreamer.account.closed
    world.tracker.reclaim(0)
    assert dreamer.account.closed
    assert world.told(VictimAsked)[-1].age == 0.0


def test_none_is_now_the_first_time_and_very_old_when_a_later_round_gets_it_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F13: claimed and not yet put in, or hidden."""
    silent = world.holder("silent", 100, age="none")
    first = world.holder("first", 100)

    world.tracker.reclaim(100)
    assert (first.account.closed, silent.account.closed) == (True, False)
    assert logged(caplog) == []
    second = world.holder("second", 100)
    world.tracker.reclaim(100)

    assert silent.account.closed
    assert second.requests == []
    assert logged(caplog) == [
        "participant ScriptedParticipant of account 'silent' names no age twice, yet holds 100 bytes"
    ]


@pytest.mark.parametrize("limit", [1000, 2**30])
def test_none_is_now_again_after_a_claim_in_between(limit: int) -> None:
    """F13: somebody whose claims always come just before the round is not punished."""
    world = World(limit)
    unit = limit // 20
    silent = world.holder("silent", unit, age="none")
    others = [world.holder(f"h{n}", unit) for n in range(4)]

    for one in others:
        silent.participation.claim(unit)
        world.tracker.reclaim(world.tracker.used - unit // 2)

        assert one.account.closed
        silent.participation.release(unit)

    assert not silent.account.closed


def test_none_is_not_very_old_for_the_credit_in_its_handle() -> None:
    """F13: who holds nothing but credit is left in peace, however often it is asked."""
    world = World(2**30)
    empty = world.holder("empty", 100)
    empty.get()
    assert world.tracker.used > 0

    for _ in range(3):
        world.tracker.reclaim(0)

    assert not empty.account.closed
    assert empty.requests == []


def test_an_age_by_a_coroutine_is_a_failure(any_policy: World) -> None:
    """F19: it is detached like one that raises, and the coroutine closed."""

    async def oldest() -> float:
        return 0.0

    bad = any_policy.holder("bad", 400, age=lambda _: oldest())

    any_policy.tracker.reclaim(0)
    gc.collect()  # a coroutine that was left would warn here

    assert bad.participation.closed
    (event,) = any_policy.told(ParticipationEnded)
    assert event.why == "raised TypeError when it was asked for its age"


class Mortal:
    """A participant that keeps nothing."""

    def __init__(self, participation: Participation) -> None:
        participation.claim(400)
        self.participation = participation

    def oldest_data(self) -> float:
        return 100.0

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        raise AssertionError("asked after its death")


def test_who_dies_while_ages_are_asked_is_passed_over(any_policy: World) -> None:
    """F22: its bytes are written off once, its account lives, the round goes on."""
    world = any_policy
    alive: list[Mortal] = []

    def kill(one: ScriptedParticipant) -> float:
        alive.clear()
        return one.items[0][0]

    killer = world.holder("killer", 100, age=kill)
    account = world.tracker.new_account("mortal")
    alive.append(account.register_participant_with(Mortal))
    handle = alive[0].participation.clone()

    ended = world.tracker.reclaim(100)

    assert ended is not None
    assert (ended.outcome, ended.victims, ended.used) == (RoundOutcome.DONE, 0, 100)
    assert handle.closed
    assert not account.closed
    assert not killer.account.closed


def test_who_dies_when_it_is_its_turn_is_passed_over(any_policy: World) -> None:
    """F22: between the decision and the call."""
    world = any_policy
    account = world.tracker.new_account("mortal")
    alive = [account.register_participant_with(Mortal)]
    handle = alive[0].participation.clone()
    world.clock.advance(1)
    world.holder("other", 100)
    world.tracker.subscribe(lambda event: alive.clear() if isinstance(event, VictimAsked) else None)

    ended = world.tracker.reclaim(100)

    assert ended is not None
    assert (ended.outcome, ended.victims, ended.used) == (RoundOutcome.DONE, 1, 100)
    assert [event.account for event in world.told(VictimAsked)] == ["mortal"]
    assert handle.closed
    assert not account.closed


@pytest.mark.parametrize(
    "area", [lambda now: 1 // 0, lambda now: "much", lambda now: None], ids=["raises", "text", "None"]
)
def test_who_cannot_tell_its_byte_seconds_is_detached(area: Callable[[float], object]) -> None:
    """F11: under a policy that may want them; no other asks."""
    for policy in ("byte_seconds", "oldest_data"):
        world = World(policy=policy)
        bad = world.holder("bad", 400)
        bad.byte_seconds = area  # type: ignore[attr-defined]

        world.tracker.reclaim(0)

        assert bad.account.closed is (policy == "oldest_data")
        assert world.tracker.used == 0


def test_byte_seconds_by_a_coroutine_are_a_failure() -> None:
    """F19: and the coroutine is closed."""
    world = World(policy="byte_seconds")
    bad = world.holder("bad", 400)

    async def area(now: float) -> float:
        return 1.0

    bad.byte_seconds = area  # type: ignore[attr-defined]
    world.tracker.reclaim(0, dry_run=True)
    world.tracker.reclaim(0)
    gc.collect()

    assert bad.participation.closed
