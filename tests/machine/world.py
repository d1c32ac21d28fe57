"""The public interface driven beside the model: each call's outcome is what the model says, or the test fails."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from math import nan
from typing import Any

import pytest

from memquota import Tracker
from memquota.errors import (
    AccountClosed,
    MemoryQuotaError,
    MemoryReclaimed,
    ParticipationClosed,
    QuotaExceeded,
    UsageError,
)
from memquota.observe import CloseKind, CloseReason
from memquota.participant import Reclaimed, ReclaimRequest
from memquota.testing import FakeClock
from tests.machine.model import Acc, Line, Model, Part
from tests.machine.witness import Witness

TIMEOUT = 10.0


class Interrupt(BaseException):
    """Comes from outside, as Ctrl-C does."""


class RealTime:
    """Real time as reclaimers see it: passes when told to, so that to hang costs nothing."""

    def __init__(self) -> None:
        self.time = 0.0
        self.computed = 0.0
        # What each look at a clock costs: above 5 ms a round pauses after every step.
        self.cost = 0.0

    def monotonic(self) -> float:
        self.time += self.cost
        return self.time

    def processor_time(self) -> float:
        self.computed += self.cost
        return self.computed


class Body:
    """A participant that does as its part of the model is told."""

    def __init__(self, world: World, reentrant: bool) -> None:
        self.world = weakref.ref(world)
        self.reentrant = reentrant
        self.part: Part | None = None

    def oldest_data(self) -> Any:
        world, part = self.world(), self.part
        if world is None or part is None:
            return None
        return world.within(world.tell_age, part)

    def reclaim(self, request: ReclaimRequest) -> Any:
        world, part = self.world(), self.part
        assert world is not None
        assert part is not None
        if threading.current_thread().name == "memquota-ask-claimer":  # after its account was closed
            assert part.acc.ended is not None
            return Reclaimed.COLLAPSING
        return world.within(world.give_back, part, request)


async def too_late() -> None:
    """What a participant must not return where nobody awaits it."""


#: Where there are so many participants, nobody registers another one in the middle of a round: as one may do in each
#: round, and be interrupted, everybody's claiming in turn would double them each time.
MOST = 100


class World(Model):
    """A tracker, its clocks, and the model beside it."""

    def __init__(self, limit: int, *, low: int | None, hard: int | None, policy: Any, strict: bool) -> None:
        super().__init__()
        self.clock = FakeClock(1000.0)
        self.real = RealTime()
        self.strict = strict
        self.policy = policy
        # Counts what happened, so that "since when" can be said.
        self.stamp = 1
        self.names = 0
        self.backwards = False
        self.dry = False
        # Whether an exception from outside left a round to the next claim.
        self.pending = False
        # Where a round that was asked for by hand is to stop; None for the low water.
        self.wanted: int | None = None
        # The participation whose claim runs the round, and the bytes that are under way.
        self.claimer: Part | None = None
        # How many participants are being called right now, one from within the other.
        self.inside = 0
        self.closings: list[tuple[Acc, CloseReason]] = []
        self.justified: set[Acc] = set()
        self.tracker = Tracker(
            limit,
            low_water=low,
            hard_limit=hard,
            policy=policy,
            strict=strict,
            clock=self.clock,
            reclaim_timeout=TIMEOUT,
            name="world",
        )
        self.witness = Witness(self)
        # What went wrong where exceptions are logged and nothing more.
        self.errors: list[AssertionError] = []
        self.tracker.subscribe(partial(self.noted, self.witness.heard))

    def noted(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call back, and keep what went wrong: the tracker lets nothing out of callbacks."""
        try:
            return action(*arguments)
        except AssertionError as error:
            self.errors.append(error)
            raise

    def within(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call a participant."""
        self.inside += 1
        try:
            return self.noted(action, *arguments)
        finally:
            self.inside -= 1

    # --- accounts ---------------------------------------------------------------------------------

    def new_account(
        self, parent: Acc | None, *, limit: int | None, hard: int | None, minimum: int, priority: int
    ) -> Acc | None:
        self.names += 1
        acc = Acc(f"a{self.names}", [parent] if parent is not None else [], limit, hard, minimum, priority)
        options: dict[str, Any] = {"limit": limit, "hard_limit": hard, "minimum": minimum, "priority": priority}
        try:
            if parent is None:
                acc.api = self.tracker.new_account(acc.name, **options)
            else:
                assert parent.api is not None
                acc.api = parent.api.new_child(acc.name, **options)
        except UsageError:
            assert limit is not None
            assert hard is not None
            assert hard < limit
            return None
        except AccountClosed as error:
            assert parent is not None
            self.check_closed(error, parent)
            return None
        assert parent is None or parent.ended is None
        assert limit is None or hard is None or hard >= limit
        acc.ref = weakref.ref(acc.api)
        acc.changed = self.stamp
        acc.api.on_close(partial(self.noted, self.on_close, acc))
        self.accs.append(acc)
        self.linked()
        return acc

    def on_close(self, acc: Acc, reason: CloseReason) -> None:
        assert acc.ended is reason
        acc.calls += 1

    def add_parent(self, acc: Acc, parent: Acc) -> None:
        assert acc.api is not None
        assert parent.api is not None
        if acc.ended is not None or parent.ended is not None:
            with pytest.raises(AccountClosed):
                acc.api.add_parent(parent.api)
            return
        if parent in acc.parents or parent in self.below(acc):
            with pytest.raises(UsageError):
                acc.api.add_parent(parent.api)
            return
        gaining = [above for above in parent.above() if above not in acc.above() and above.hard is not None]
        most = self.most(acc)
        moving = {above: self.used(acc) - self.both(acc, above) for above in gaining}
        must = any(moving[above] and self.used(above) + moving[above] > (above.hard or 0) for above in gaining)
        may = any(moving[above] and self.most(above) + most > (above.hard or 0) for above in gaining)
        # In force from now on: a round may begin before the call is back.
        acc.parents.append(parent)
        self.linked()
        changed = {one: one.changed for one in (*self.below(acc), *parent.above())}
        for one in changed:
            one.changed = self.stamp
        try:
            acc.api.add_parent(parent.api)
        except QuotaExceeded:
            assert may
            acc.parents.remove(parent)
            self.linked()
            for one, stamp in changed.items():
                one.changed = stamp
        except Interrupt:
            self.pending = True
        else:
            assert not must

    def both(self, acc: Acc, other: Acc) -> int:
        """What is claimed below the one and below the other too."""
        return sum(self.claimed_in(one) for one in self.below(acc) & self.below(other))

    def claimed_in(self, acc: Acc) -> int:
        """What is claimed in the account itself."""
        own = acc.own if acc.ended is None else 0
        return own + sum(part.told for part in self.parts if part.acc is acc and part.live)

    def most(self, acc: Acc) -> int:
        """What an account may be said to hold, at most."""
        return acc.api.used if acc.api is not None else self.used(acc) + self.tracker.statistics().credit

    def close(self, acc: Acc) -> None:
        assert acc.api is not None
        expected = {one for one in self.below(acc) if one.ended is None} if acc.ended is None else set()
        self.justified |= expected
        acc.api.close()
        assert all(one.ended is not None and one.ended.kind is CloseKind.CLOSED for one in expected)
        assert all(one.ended is not None and one.ended.account == acc.name for one in expected)

    def drop(self, acc: Acc) -> None:
        """Let our handle go. With the last one the account closes, with a warning if something was claimed."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            acc.api = None
            lost = {one for one in self.accs if one.ended is None and not self.kept(one)}
            self.justified |= {below for one in lost for below in self.below(one) if below.ended is None}
            claimed = [one for one in lost if self.claimed_in(one)]
            assert self.tracker.used >= 0  # settles
        assert all(one.ended is not None and one.ended.kind is CloseKind.DROPPED for one in lost)
        assert len(caught) == len(claimed)
        for warning in caught:
            assert "bytes still claimed" in str(warning.message)

    def reconfigure(self, acc: Acc, options: dict[str, Any]) -> None:
        assert acc.api is not None
        limit, hard = options.get("limit", acc.limit), options.get("hard_limit", acc.hard)
        if limit is not None and hard is not None and hard < limit:
            with pytest.raises(UsageError if acc.ended is None else AccountClosed):
                acc.api.reconfigure(**options)
            return
        before = acc.limit, acc.hard, acc.minimum, acc.priority, acc.changed
        acc.reported = acc.api.used
        # In force from now on: a round may begin before the call is back.
        acc.limit, acc.hard, acc.changed = limit, hard, self.stamp
        acc.minimum = options.get("minimum", acc.minimum)
        acc.priority = options.get("priority", acc.priority)
        try:
            acc.api.reconfigure(**options)
        except AccountClosed as error:
            acc.limit, acc.hard, acc.minimum, acc.priority, acc.changed = before
            self.check_closed(error, acc)
        except Interrupt:
            self.pending = True

    # --- participants -------------------------------------------------------------------------------------------------

    def register(self, acc: Acc, *, reentrant: bool, owning: bool) -> Part | None:
        assert acc.api is not None
        body = Body(self, reentrant)
        try:
            if owning:
                api = acc.api.register_participant_with(lambda handle: _keep(body, handle)).handle
                del body.handle  # type: ignore[attr-defined]
            else:
                api = acc.api.register_participant(body)
        except AccountClosed as error:
            self.check_closed(error, acc)
            return None
        assert acc.ended is None
        part = Part(acc)
        part.body = body
        part.ref = weakref.ref(body, lambda _: self.end(part, "gone"))
        body.part = part
        part.lines.append(Line(part, api))
        self.parts.append(part)
        return part

    def vanish(self, part: Part) -> None:
        """Let the participant go: it dies at once, or when the round that is asking it has its answer."""
        part.body = None

    def claim(self, line: Line, size: int) -> bool:
        """Claim by a handle. Returns whether it was granted; a refusal is the one that the model expects."""
        part, api = line.part, line.api
        assert api is not None
        outermost = not self.inside
        must, may = self.refusals(part.acc, size, by_handle=True)
        over = part.over is not None or line.closed or part.acc.ended is not None
        if not over:
            part.told += size
        if outermost:
            self.claimer = part
            self.witness.next_claim()
        try:
            api.claim(size)
        except QuotaExceeded:
            assert not over
            assert may
            assert size
            part.told -= size
            return False
        except (AccountClosed, ParticipationClosed) as error:
            self.check_over(error, line)
            return False
        except Interrupt:
            self.pending = True
            if part.live:
                part.told = max(0, part.told - size)
            return False
        finally:
            if outermost:
                self.claimer = None
        assert not over
        assert not must
        assert part.live
        # Its own round may have taken some of it back already.
        part.took(min(size, part.told - sum(held for _, held in part.items)), self.clock(), self.stamp)
        return True

    def release(self, line: Line, size: int) -> None:
        part = line.part
        assert line.api is not None
        try:
            line.api.release(size)
        except UsageError:
            assert self.strict
            assert part.live
            assert size > part.told
            return
        if part.live and not line.closed:
            assert size <= part.told or not self.strict
            size = min(size, part.told)
            part.told -= size
            part.gave(size)

    def clone(self, line: Line) -> None:
        assert line.api is not None
        try:
            api = line.api.clone()
        except (AccountClosed, ParticipationClosed) as error:
            self.check_over(error, line)
            return
        assert line.part.live
        assert not line.closed
        line.part.lines.append(Line(line.part, api))

    def close_line(self, line: Line, *, drop: bool) -> None:
        part = line.part
        if drop:
            line.api = None
            assert self.tracker.used >= 0  # settles
        else:
            assert line.api is not None
            line.api.close()
        if not line.closed:
            line.closed = True
            if part.over is None and all(one.closed for one in part.lines):
                self.end(part, "closed")

    def end(self, part: Part, why: str) -> None:
        if part.over is None and part.acc.ended is None:
            part.over = why
            part.told = 0
            part.items.clear()

    def destroy(self, line: Line) -> None:
        assert line.api is not None
        line.api.destroy()
        self.end(line.part, "destroyed")

    # --- accounts' own claims -----------------------------------------------------------------------------------------

    def claim_own(self, acc: Acc, size: int) -> bool:
        assert acc.api is not None
        must, may = self.refusals(acc, size, by_handle=False)
        over = acc.ended is not None
        if not over:
            acc.own += size
        try:
            acc.api.claim(size)
        except QuotaExceeded:
            assert may
            assert size
            assert not over
            acc.own -= size
            return False
        except AccountClosed as error:
            self.check_closed(error, acc)
            return False
        except Interrupt:
            self.pending = True
            acc.own = max(0, acc.own - size)
            return False
        assert not over
        assert not must
        assert acc.ended is None
        return True

    def release_own(self, acc: Acc, size: int) -> None:
        assert acc.api is not None
        try:
            acc.api.release(size)
        except UsageError:
            assert self.strict
            assert acc.ended is None
            assert size > acc.own
            return
        if acc.ended is None:
            assert size <= acc.own or not self.strict
            acc.own -= min(size, acc.own)

    def refusals(self, acc: Acc, size: int, *, by_handle: bool) -> tuple[bool, bool]:
        """Whether a hard limit must refuse so much, and whether it may: by credit that is out it may do so early."""
        must = may = False
        tracker = self.tracker
        levels = [(above.hard, self.used(above), self.most(above)) for above in acc.above() if above.ended is None]
        levels.append((tracker.hard_limit, self.used(), tracker.used))
        for hard, used, reported in levels:
            if hard is not None and size:
                may = may or reported + size > hard
                # Where the limit was lowered below what is held, credit from before may still be used.
                must = must or (used + size > hard and (reported <= hard or self.strict or not by_handle))
        return must, may

    # --- what errors must say -----------------------------------------------------------------------------------------

    def check_closed(self, error: MemoryQuotaError, acc: Acc) -> None:
        reason = acc.ended
        assert reason is not None, "refused as closed, though nobody said so"
        assert isinstance(error, MemoryReclaimed) is reason.kind.under_pressure
        if isinstance(error, MemoryReclaimed):
            assert error.reason is reason
            assert error.when == reason.when

    def check_over(self, error: MemoryQuotaError, line: Line) -> None:
        if line.part.acc.ended is not None:
            assert isinstance(error, AccountClosed)
            self.check_closed(error, line.part.acc)
        else:
            assert isinstance(error, ParticipationClosed)
            assert line.part.over is not None or line.closed

    # --- what participants do -----------------------------------------------------------------------------------------

    def tell_age(self, part: Part) -> Any:
        match part.age:
            case "honest":
                return part.oldest if part.items else None
            case "none":
                return None
            case "future":
                return self.clock() + 1e6
            case "nan":
                return nan
            case "text":
                return "yesterday"
            case "huge":
                return -(10**400)
            case "raise":
                if not self.dry:
                    self.end(part, "failed")
                raise RuntimeError("oldest_data fails")
            case "late":
                self.real.time += TIMEOUT + 1
                if not self.dry:
                    self.end(part, "failed")
                return 0.0
            case "interrupt":
                raise Interrupt
        raise AssertionError(part.age)

    def give_back(self, part: Part, request: ReclaimRequest) -> Any:
        assert part.live
        assert request.deadline == self.real.time + TIMEOUT
        assert 0 <= request.bytes_wanted <= part.told + self.tracker.statistics().credit
        answers = self.witness.answers
        kind, act = ACTS[part.answer]
        answers.append(kind)
        return act(self, part, request)

    def overtaken(self, part: Part) -> None:
        """The participant hangs, and another thread's claim takes the round over."""
        claimer, self.claimer = self.claimer, None
        self.real.time += TIMEOUT + 1
        others = [acc for acc in self.open_accs() if acc not in self.below(part.acc)]
        if others:
            other = others[part.spice % len(others)]
            outcomes: list[bool | BaseException] = []
            thread = threading.Thread(target=_run, args=(lambda: self.claim_own(other, 1), outcomes))
            thread.start()
            thread.join()
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                assert not outcome or part.acc.ended is not None, "nobody took over"
        self.claimer = claimer

    def meddle(self, part: Part) -> None:
        """Use the tracker in the middle of its round."""
        choice, other = part.spice % 10, part.spice // 10
        accs, line = self.open_accs(), part.lines[0]
        match choice:
            case 0:
                acc = self.new_account(None, limit=None, hard=None, minimum=0, priority=0)
                assert acc is not None
                self.claim_own(acc, 1 + other)
            case 1 if accs and len(self.parts) < MOST:
                new = self.register(accs[other % len(accs)], reentrant=False, owning=False)
                if new is not None:
                    self.claim(new.lines[0], 1 + other)
            case 2 if part.acc.api is not None:
                self.close(part.acc)
            case 3 if accs:
                self.close(accs[other % len(accs)])
            case 4 if accs:
                self.claim_own(accs[other % len(accs)], 1 + other)
            case 5 if line.api is not None:
                self.claim(line, 1 + other)
            case 6 if line.api is not None:
                self.destroy(line)
            case 7:
                try:
                    self.tracker.reclaim()
                    raise AssertionError("a round in a round")
                except UsageError:
                    pass
            case 8:
                strangers = [one for one in self.parts if one is not part and one.body is not None]
                if strangers:
                    self.vanish(strangers[other % len(strangers)])
            case 9:
                self.tracker.reconfigure(limit=self.tracker.limit, low_water=None)
            case _:
                pass


def _keep(body: Any, handle: Any) -> Any:
    body.handle = handle
    return body


def _run(action: Callable[[], bool], outcomes: list[bool | BaseException]) -> None:
    try:
        outcomes.append(action())
    except BaseException as error:
        outcomes.append(error)


def _line(part: Part) -> Line | None:
    return next((line for line in part.lines if line.api is not None and not line.closed), None)


def _release(world: World, part: Part, size: int) -> None:
    line = _line(part)
    if line is not None:
        world.release(line, size)


def _collapse(world: World, part: Part, request: ReclaimRequest) -> Any:
    part.items.clear()
    return Reclaimed.COLLAPSING


def _part(world: World, part: Part, request: ReclaimRequest) -> Any:
    _release(world, part, min(part.told, request.bytes_wanted))
    return Reclaimed.PARTIAL


def _older(world: World, part: Part, request: ReclaimRequest) -> Any:
    """Only what is not newer than the bound, as a queue does."""
    size = sum(size for time, size in part.items if time <= request.newest_to_discard)
    _release(world, part, min(part.told, size, request.bytes_wanted))
    return Reclaimed.PARTIAL


def _byte(world: World, part: Part, request: ReclaimRequest) -> Any:
    _release(world, part, min(part.told, 1))
    return Reclaimed.PARTIAL


def _nothing(world: World, part: Part, request: ReclaimRequest) -> Any:
    return Reclaimed.PARTIAL


def _again(world: World, part: Part, request: ReclaimRequest) -> Any:
    """Frees, and claims as much again."""
    size = min(part.told, request.bytes_wanted)
    _release(world, part, size)
    line = _line(part)
    if line is not None and part.live:
        world.claim(line, size)
    return Reclaimed.PARTIAL


def _over(world: World, part: Part, request: ReclaimRequest) -> Any:
    _release(world, part, part.told + 3)
    return Reclaimed.PARTIAL


def _raise(world: World, part: Part, request: ReclaimRequest) -> Any:
    raise ValueError("reclaim fails")


def _nonsense(world: World, part: Part, request: ReclaimRequest) -> Any:
    return [None, 5, "later", True, Reclaimed][part.spice % 5]


def _coroutine(world: World, part: Part, request: ReclaimRequest) -> Coroutine[Any, Any, None]:
    return too_late()


def _late(world: World, part: Part, request: ReclaimRequest) -> Any:
    world.real.time += TIMEOUT + 1
    return Reclaimed.PARTIAL


def _overtaken(world: World, part: Part, request: ReclaimRequest) -> Any:
    world.overtaken(part)
    return Reclaimed.PARTIAL


def _interrupt(world: World, part: Part, request: ReclaimRequest) -> Any:
    raise Interrupt


def _meddle(world: World, part: Part, request: ReclaimRequest) -> Any:
    world.witness.meddled = True
    world.meddle(part)
    return Reclaimed.PARTIAL


def _meddle_and_collapse(world: World, part: Part, request: ReclaimRequest) -> Any:
    _meddle(world, part, request)
    return Reclaimed.COLLAPSING


Act = Callable[[World, Part, ReclaimRequest], Any]
#: What a participant may do when it is asked, and what that is worth.
ACTS: dict[str, tuple[str, Act]] = {
    "collapse": ("collapse", _collapse),
    "part": ("partial", _part),
    "older": ("partial", _older),
    "byte": ("partial", _byte),
    "nothing": ("partial", _nothing),
    "again": ("partial", _again),
    "over": ("partial", _over),
    "raise": ("failure", _raise),
    "nonsense": ("failure", _nonsense),
    "coroutine": ("failure", _coroutine),
    "late": ("failure", _late),
    "overtaken": ("failure", _overtaken),
    "interrupt": ("interrupt", _interrupt),
    "meddle": ("partial", _meddle),
    "meddle and collapse": ("collapse", _meddle_and_collapse),
}
AGES = ["honest", "none", "future", "nan", "text", "huge", "raise", "late", "interrupt"]
