"""The task reclaimer's participants, sync and async, that fail, lie and re-enter (P5)."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from memquota import CloseKind, MemoryReclaimed, ParticipationClosed, Reclaimed, ReclaimRequest
from memquota.observe import RoundEnded, RoundOutcome, VictimOutcome, VictimSettled
from memquota.testing import AsyncScriptedParticipant, ScriptedParticipant, assert_books_balance
from tests.api.support import World, logged


@pytest.fixture
def world() -> World:
    return World(reclaimer="task")


@pytest.fixture(params=[ScriptedParticipant, AsyncScriptedParticipant], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Participants of both kinds."""
    return request.param


def holder(world: World, kind: Any, name: str, size: int, **options: Any) -> Any:
    one = kind(world.tracker.new_account(name), world.clock, **options)
    one.put(size)
    world.clock.advance(1)
    return one


async def rounds_over(world: World, count: int = 1) -> None:
    """Lets the task run until so many rounds are over."""
    with anyio.fail_after(60):
        while len(world.told(RoundEnded)) < count:
            await checkpoint()


async def test_who_raises_when_asked_for_its_age_is_detached(world: World, kind: Any) -> None:
    """F11: the round goes on, whoever claimed notices nothing."""
    bad = holder(world, kind, "bad", 600, age="raise")
    account = world.tracker.new_account("claims")
    async with world.tracker:
        account.claim(500)
        await rounds_over(world)

        assert (account.used, world.tracker.used) == (500, 500)
        assert not bad.account.closed
        with pytest.raises(ParticipationClosed):
            bad.put(1)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("raise", "raised RuntimeError when it was asked for memory"),
        ("nonsense", "answered str when it was asked for memory"),
        (lambda *_: None, "answered NoneType when it was asked for memory"),
        (lambda *_: True, "answered bool when it was asked for memory"),
    ],
)
async def test_who_fails_when_asked_for_memory_collapses(
    world: World, kind: Any, answer: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F16: F19: with all below; the round goes on to the next victim."""
    bad = holder(world, kind, "bad", 200, answer=answer)
    child = bad.account.new_child()
    good = holder(world, kind, "good", 300, answer="partial")
    account = world.tracker.new_account("claims")
    async with world.tracker:
        account.claim(600)
        await rounds_over(world)

        assert bad.account.close_reason.kind is CloseKind.FAILED
        assert child.closed
        assert f"participant {kind.__name__} of account 'bad' {text}" in logged(caplog)
        assert len(good.requests) == 1
        assert not good.account.closed
        with pytest.raises(MemoryReclaimed):
            bad.put(1)
        assert_books_balance(world.tracker, 600 + good.held)


async def test_an_answer_may_be_anything_that_can_be_awaited(world: World) -> None:
    """F19: also where the method did not look like a coroutine function."""

    class Later:
        def __await__(self) -> Any:
            yield from checkpoint().__await__()
            return Reclaimed.COLLAPSING

    one = holder(world, ScriptedParticipant, "one", 600, answer=lambda *_: Later())
    async with world.tracker:
        world.tracker.reclaim(0)
        await rounds_over(world)

        assert one.account.close_reason.kind is CloseKind.RECLAIMED


async def test_an_answer_that_is_awaited_to_nonsense_is_a_failure(world: World) -> None:
    """F19: a coroutine within a coroutine is closed, not awaited for ever."""

    async def inner() -> Reclaimed:
        return Reclaimed.PARTIAL

    one = holder(world, AsyncScriptedParticipant, "one", 600, answer=lambda *_: inner())
    async with world.tracker:
        world.tracker.reclaim(0)
        await rounds_over(world)
        gc.collect()

        assert one.account.close_reason.text.endswith("answered coroutine when it was asked for memory")


@pytest.mark.parametrize("answer", ["nothing", "trickle"])
@pytest.mark.parametrize("policy", ["oldest_data", "largest"])
async def test_who_gives_too_little_twice_in_a_row_collapses(kind: Any, answer: str, policy: str) -> None:
    """F20: and costs nobody else anything."""
    world = World(reclaimer="task", policy=policy)
    liar = holder(world, kind, "liar", 600, answer=answer)
    honest = holder(world, kind, "honest", 300)
    async with world.tracker:
        world.tracker.reclaim(300)
        await rounds_over(world)

        assert len(liar.requests) == 2
        assert liar.account.close_reason.kind is CloseKind.STALLED
        assert honest.requests == []
        assert world.told(VictimSettled)[-1].outcome is VictimOutcome.STALLED


async def test_what_a_victim_claims_while_it_is_asked_goes_with_it(world: World, kind: Any) -> None:
    """F10: F9: others' claims are granted and counted."""
    account = world.tracker.new_account("other")

    def claim(one: ScriptedParticipant, _: ReclaimRequest) -> Reclaimed:
        one.put(50)
        account.claim(7)
        return Reclaimed.COLLAPSING

    victim = holder(world, kind, "victim", 600, answer=claim)
    async with world.tracker:
        world.tracker.reclaim(100)
        await rounds_over(world)

        assert victim.account.closed
        assert world.tracker.used == account.used == 7


async def test_participants_of_a_victim_are_asked_at_once(world: World) -> None:
    """While one of them waits, the others are asked."""
    account = world.tracker.new_account("both")
    record: list[str] = []
    met = anyio.Event()

    class Waits:
        def __init__(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
            self.name = name
            self.act = act

        def oldest_data(self) -> float:
            return 100.0

        async def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            record.append(f"{self.name} starts")
            await self.act()
            record.append(f"{self.name} ends")
            return Reclaimed.COLLAPSING

    async def meet() -> None:
        met.set()

    participants = [Waits("first", met.wait), Waits("second", meet)]
    handles = [account.register_participant(one) for one in participants]
    for handle in handles:
        handle.claim(300)
    async with world.tracker:
        world.tracker.reclaim(0)
        await rounds_over(world)

    assert sorted(record) == ["first ends", "first starts", "second ends", "second starts"]
    assert account.closed


async def test_participants_may_use_the_tracker_between_two_awaits(world: World) -> None:
    """F15: no lock is held while they wait."""

    async def busy(one: Any) -> Reclaimed:
        for number in range(3):
            await checkpoint()
            child = one.account.new_child()
            child.claim(5)
            world.tracker.reconfigure(limit=900)
            world.tracker.reclaim(0, dry_run=True)
            world.tracker.reclaim(10**6 + number)  # only requested
        return Reclaimed.COLLAPSING

    class Busy(AsyncScriptedParticipant):
        async def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            self.requests.append(request)
            return await busy(self)

    one = holder(world, Busy, "busy", 600)
    async with world.tracker:
        world.tracker.reclaim(0)
        await rounds_over(world, 4)

        assert one.account.closed
        assert [event.outcome for event in world.told(RoundEnded)] == [RoundOutcome.DONE] * 4
        assert_books_balance(world.tracker, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_participant_that_cancels_itself_hurts_only_itself(world: World) -> None:
    """F12: P5: the round ends, and the next one runs."""

    def cancel(*_: object) -> None:
        raise asyncio.CancelledError

    one = holder(world, AsyncScriptedParticipant, "one", 600, answer=cancel)
    other = holder(world, AsyncScriptedParticipant, "other", 300)
    async with world.tracker:
        world.tracker.reclaim(300)
        await rounds_over(world)
        world.tracker.reclaim(0)
        await rounds_over(world, 2)

        assert one.account.closed
        assert other.account.closed
        assert_books_balance(world.tracker, 0)


async def test_bytes_that_are_promised_back_are_credited(world: World) -> None:
    """P10: before anybody else is asked; what does not come is asked of the next."""
    gives: dict[str, int] = {"first": 600}
    release = anyio.Event()

    class Slow(AsyncScriptedParticipant):
        async def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            self.requests.append(request)
            await release.wait()
            for _ in range(gives[self.account.name] // 100):
                self.get()
            return Reclaimed.PARTIAL

    first = Slow(world.tracker.new_account("first"), world.clock)
    for _ in range(6):
        first.put(100)
    world.clock.advance(1)
    second = holder(world, AsyncScriptedParticipant, "second", 300)
    async with world.tracker:
        world.tracker.reclaim(300)
        await anyio.wait_all_tasks_blocked()

        assert [request.bytes_wanted for request in first.requests] == [600]
        assert second.requests == []
        release.set()
        await rounds_over(world)

        assert second.requests == []
        assert world.tracker.used == 300
