"""Random programs over the public interface, checked after every step."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memquota import Tracker
from memquota.errors import MemoryQuotaError, TrackerClosed, UsageError
from memquota.observe import CloseKind, RoundOutcome
from memquota.testing import assert_books_balance
from tests.machine.model import Acc, Line, Part
from tests.machine.world import ACTS, AGES, Interrupt, World

KIB, MIB = 1024, 1024 * 1024

#: Enough for diamonds and chains, few enough that each is met often.
MOST_ACCOUNTS, MOST_PARTS = 10, 12

picks = st.integers(0, 999)
#: A part of the tracker's limit, in 64ths, or some bytes.
parts = st.integers(0, 24)
sizes = st.one_of(st.integers(0, 40), parts.map(lambda part: -part))
answers = st.sampled_from(["collapse", "part", "older", *ACTS])
ages = st.sampled_from(["honest"] * 4 + AGES)


def fewest(candidate: Any) -> int:
    """A policy of one's own: the smallest goes first."""
    return -int(candidate.bytes)


def broken(candidate: Any) -> int:
    """A policy that fails: the oldest data goes first then."""
    raise ZeroDivisionError


POLICIES = ["oldest_data", "oldest_data", "largest", "byte_seconds", fewest, broken]


class Books(RuleBasedStateMachine):
    """Accounts, participations and rounds; one tracker a run."""

    #: How many steps all runs of this class took.
    taken = 0

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loggers = [logging.getLogger(f"memquota.{name}") for name in ("accounts", "reclaim")]
        for logger in self.loggers:  # records with tracebacks would keep participants alive
            self.patch.setattr(logger, "disabled", True)
        self.threads = set(threading.enumerate())
        self.world: World | None = None
        # What was out as credit, and reported, after the step before; and whether all was well then.
        self.credit = 0
        self.used = 0
        self.balanced = False

    @initialize(
        size=st.sampled_from([64, 1000, 100 * KIB, 4 * MIB, 512 * MIB]),
        low=st.sampled_from([None, None, None, 0, 32, 63, 64]),
        hard=st.sampled_from([None, None, 64, 72]),
        policy=st.sampled_from(POLICIES),
        strict=st.sampled_from([False, False, True]),
        people=st.lists(st.tuples(picks, answers, ages, parts), min_size=2, max_size=8),
    )
    def begin(
        self,
        size: int,
        low: int | None,
        hard: int | None,
        policy: Any,
        strict: bool,
        people: list[tuple[int, str, str, int]],
    ) -> None:
        self.world = World(
            size,
            low=None if low is None else size * low // 64,
            hard=None if hard is None else size * hard // 64,
            policy=policy,
            strict=strict,
        )
        for module in ("memquota._rounds", "memquota.reclaimers._loop"):
            self.patch.setattr(f"{module}.monotonic", self.world.real.monotonic)
        self.patch.setattr("memquota.reclaimers._loop.processor_time", self.world.real.processor_time)
        for pick, answer, age, part in people:
            self.world.clock.advance(1)
            if pick % 4 or not self.world.accs:
                self.new_account(pick, pick // 4 % 24, pick // 7 % 40, -(pick // 9 % 8), pick // 3 % 3 - 1)
            accs = self.world.open_accs()
            if pick % 3 == 0 and len(accs) > 2:
                self.world.add_parent(accs[-1], accs[pick // 3 % (len(accs) - 1)])
            self.register(pick // 2, answer, age, -part)

    # --- choosing -----------------------------------------------------------------------------------------------------

    def size(self, size: int) -> int:
        assert self.world is not None
        return size if size >= 0 else self.world.tracker.limit * -size // 64

    def acc(self, pick: int) -> Acc | None:
        """An account whose handle we hold; one that is closed now and then."""
        assert self.world is not None
        found = [acc for acc in self.world.accs if acc.api is not None and (acc.ended is None or pick % 5 == 0)]
        return found[pick % len(found)] if found else None

    def part(self, pick: int) -> Part | None:
        assert self.world is not None
        found = [part for part in self.world.parts if part.live or pick % 5 == 0]
        return found[pick % len(found)] if found else None

    def line(self, pick: int) -> Line | None:
        part = self.part(pick)
        found = [line for line in part.lines if line.api is not None] if part is not None else []
        return found[pick // 7 % len(found)] if found else None

    # --- accounts -----------------------------------------------------------------------------------------------------

    @rule(pick=picks, limit=parts, hard=st.integers(0, 40), minimum=sizes, priority=st.integers(-1, 1))
    def new_account(self, pick: int, limit: int, hard: int, minimum: int, priority: int) -> None:
        assert self.world is not None
        if len(self.world.open_accs()) < MOST_ACCOUNTS:
            parent = self.acc(pick) if pick % 3 else None
            self.world.new_account(
                parent,
                limit=self.size(-limit) or None if pick % 2 else None,
                hard=self.size(-hard) or None if pick % 7 < 2 else None,
                minimum=self.size(minimum) if pick % 11 < 3 else 0,
                priority=priority,
            )

    @rule(pick=picks, other=picks)
    def add_parent(self, pick: int, other: int) -> None:
        assert self.world is not None
        acc, parent = self.acc(pick), self.acc(other)
        if acc is not None and parent is not None:
            self.world.add_parent(acc, parent)

    @rule(pick=picks, what=st.integers(1, 15), limit=parts, hard=st.integers(0, 40), priority=st.integers(-1, 1))
    def reconfigure_account(self, pick: int, what: int, limit: int, hard: int, priority: int) -> None:
        assert self.world is not None
        acc = self.acc(pick)
        options: dict[str, Any] = {}
        if what & 1:
            options["limit"] = self.size(-limit) or None
        if what & 2:
            options["hard_limit"] = self.size(-hard) or None
        if what & 4:
            options["minimum"] = self.size(-limit)
        if what & 8:
            options["priority"] = priority
        if acc is not None:
            self.world.reconfigure(acc, options)

    @rule(size=st.integers(1, 128), low=st.integers(-2, 32), hard=st.integers(-2, 80))
    def reconfigure_tracker(self, size: int, low: int, hard: int) -> None:
        assert self.world is not None
        tracker = self.world.tracker
        options: dict[str, Any] = {"limit": max(1, tracker.limit * size // 64) if size < 128 else 512 * MIB}
        if tracker.limit < 64:
            options["limit"] = 100 * KIB
        if low >= -1:
            options["low_water"] = None if low < 0 else options["limit"] * low // 32
        if hard >= -1:
            options["hard_limit"] = None if hard < 0 else max(1, options["limit"] * hard // 64)
        before = tracker.limit, tracker.low_water, tracker.hard_limit
        try:
            tracker.reconfigure(**options)
        except UsageError:
            assert (tracker.limit, tracker.low_water, tracker.hard_limit) == before
        except Interrupt:
            self.world.pending = True
        else:
            assert tracker.limit == options["limit"]

    # --- participants -------------------------------------------------------------------------------------------------

    @rule(pick=picks, answer=answers, age=ages, first=sizes)
    def register(self, pick: int, answer: str, age: str, first: int) -> None:
        assert self.world is not None
        acc = self.acc(pick)
        if acc is not None and len(self.world.parts) < MOST_PARTS:
            part = self.world.register(acc, reentrant=pick % 2 == 0, owning=pick % 3 == 0)
            if part is not None:
                part.behave(answer, age, pick)
                self.world.claim(part.lines[0], self.size(first))

    @rule(pick=picks, answer=answers, age=ages, spice=picks)
    def behave(self, pick: int, answer: str, age: str, spice: int) -> None:
        part = self.part(pick)
        if part is not None:
            part.behave(answer, age, spice)

    # --- bytes --------------------------------------------------------------------------------------------------------

    @rule(pick=picks, size=sizes)
    def claim(self, pick: int, size: int) -> None:
        assert self.world is not None
        line = self.line(pick)
        if line is not None:
            self.world.claim(line, self.size(size))

    @rule(pick=picks, part=st.integers(1, 48))
    def claim_much(self, pick: int, part: int) -> None:
        assert self.world is not None
        line = self.line(pick)
        if line is not None:
            self.world.claim(line, self.size(-part))

    @rule(pick=picks, size=st.integers(0, 2000), times=st.integers(1, 6))
    def claim_small(self, pick: int, size: int, times: int) -> None:
        assert self.world is not None
        line = self.line(pick)
        for _ in range(times):
            if line is None or not self.world.claim(line, size):
                break

    @rule(pick=picks, size=st.integers(0, 2000), step=st.integers(0, 3))
    def flood(self, pick: int, size: int, step: int) -> None:
        """Everybody claims: now and then it is too much."""
        assert self.world is not None
        for number in range(len(self.world.parts)):
            line = self.line(pick - pick % 5 + 1 + number)
            if line is not None and line.part.live:
                self.world.clock.advance(step)
                self.world.claim(line, self.size(-(size % 17)) + size % 3)

    @rule(pick=picks, size=sizes)
    def release(self, pick: int, size: int) -> None:
        assert self.world is not None
        line = self.line(pick)
        if line is not None:
            self.world.release(line, min(self.size(size), line.part.told))

    @rule(pick=picks, size=st.integers(0, 40))
    def release_too_much(self, pick: int, size: int) -> None:
        assert self.world is not None
        line = self.line(pick)
        if line is not None:
            self.world.release(line, line.part.told + size)

    @rule(pick=picks, size=sizes)
    def claim_for_the_account(self, pick: int, size: int) -> None:
        assert self.world is not None
        acc = self.acc(pick)
        if acc is not None:
            self.world.claim_own(acc, self.size(size))

    @rule(pick=picks, size=sizes)
    def release_for_the_account(self, pick: int, size: int) -> None:
        assert self.world is not None
        acc = self.acc(pick)
        if acc is not None:
            self.world.release_own(acc, self.size(size) if pick % 4 == 0 else min(self.size(size), acc.own))

    # --- handles ------------------------------------------------------------------------------------------------------

    @rule(pick=picks)
    def clone(self, pick: int) -> None:
        assert self.world is not None
        line = self.line(pick)
        if line is not None and len(line.part.lines) < 3:
            self.world.clone(line)

    @rule(pick=picks)
    def resurvey(self, pick: int) -> None:
        line = self.line(pick)
        if line is not None and line.api is not None:
            line.api.resurvey()

    @rule(pick=picks, what=st.sampled_from(["close", "drop", "close handle", "drop handle", "destroy", "vanish"]))
    def something_ends(self, pick: int, what: str) -> None:
        assert self.world is not None
        acc, line = self.acc(pick), self.line(pick)
        if what == "close" and acc is not None:
            self.world.close(acc)
        elif what == "drop" and acc is not None:
            self.world.drop(acc)
        elif line is not None and what == "destroy":
            self.world.destroy(line)
        elif line is not None and what == "vanish":
            self.world.vanish(line.part)
        elif line is not None and what.endswith("handle"):
            self.world.close_line(line, drop=what == "drop handle")

    # --- time, rounds, nonsense ---------------------------------------------------------------------------------------

    @rule(step=st.integers(-3, 20), cost=st.sampled_from([0.0, 0.0, 0.003, 0.006]))
    def time_passes(self, step: int, cost: float) -> None:
        """Or goes back; and computing takes more of it or less, so that rounds pause more often or less."""
        assert self.world is not None
        self.world.backwards = self.world.backwards or step < 0
        self.world.clock.advance(step if step >= 0 else 10 * step)
        self.world.real.cost = cost

    @rule(part=st.integers(-8, 64))
    def reclaim(self, part: int) -> None:
        assert self.world is not None
        world = self.world
        planned = None
        if all(one.age == "honest" and one.answer == "collapse" for one in world.parts) and not world.witness.round:
            planned = self.plan(part)
        world.wanted = None if part < 0 else world.tracker.limit * part // 64
        try:
            ended = world.tracker.reclaim(world.wanted)
        except Interrupt:
            world.pending = True
            return
        assert ended is not None
        assert ended.outcome is not RoundOutcome.CANCELLED or world.pending
        if planned is not None and len(world.witness.names) == ended.victims:
            assert world.witness.names[: len(planned)] == planned or world.policy == "byte_seconds"

    @rule(part=st.integers(-8, 64))
    def dry_run(self, part: int) -> None:
        self.plan(part)

    def plan(self, part: int) -> list[str]:
        """P12: what a dry run says adds up, and nothing is touched."""
        assert self.world is not None
        world = self.world
        world.dry = True
        try:
            plan = world.tracker.reclaim(None if part < 0 else world.tracker.limit * part // 64, dry_run=True)
        except Interrupt:
            return []
        finally:
            world.dry = False
        victims = plan.victims
        assert plan.used == world.tracker.used
        assert plan.left == plan.used - sum(one.bytes for one in victims)
        assert len({one.account for one in victims}) == len(victims)
        assert all(one.bytes > 0 for one in victims)
        if victims:
            assert plan.left + victims[-1].bytes > plan.target
        return [one.account for one in victims]

    @rule(pick=picks, wrong=st.sampled_from([-1, True, 1.0, "5", None, float("nan"), 2**63, 2**62 + 1]))
    def nonsense(self, pick: int, wrong: Any) -> None:
        """P8: whatever is refused has changed nothing; the invariants below would tell."""
        assert self.world is not None
        line, acc = self.line(pick), self.acc(pick)
        tracker = self.world.tracker
        calls: list[Any] = [lambda wrong: tracker.reconfigure(limit=-1 if wrong == "5" else wrong)]
        if line is not None and line.api is not None:
            calls += [line.api.claim, line.api.release]
        if acc is not None and acc.api is not None:
            calls += [acc.api.claim, acc.api.release, acc.api.add_parent, acc.api.register_participant]
        call = calls[pick % len(calls)]
        before = tracker.used, tracker.limit
        with pytest.raises(UsageError):
            call(wrong)
        assert (tracker.used, tracker.limit) == before

    # --- what holds after every step ----------------------------------------------------------------------------------

    @invariant()
    def books_balance(self) -> None:
        world = self.world
        if world is None:
            return
        Books.taken += 1
        self.balanced = False
        tracker = world.tracker
        self.join()
        for error in world.errors:
            raise error
        reported = tracker.used
        used = world.used()
        assert_books_balance(tracker, expected=used)
        statistics = tracker.statistics()
        limit = tracker.limit
        assert 0 <= reported - used <= statistics.credit
        assert statistics.credit <= max(limit // 32, self.credit)
        assert not statistics.credit or not world.strict
        hard = tracker.hard_limit
        assert hard is None or reported <= max(hard, self.used)
        self.credit, self.used = statistics.credit, reported
        self.check_accounts(statistics.credit)
        self.check_participations()
        self.check_closings()
        self.check_rounds()
        world.forget()
        world.stamp += 1
        world.witness.next_step()
        self.balanced = True

    def join(self) -> None:
        """Participants whose own claim closed their account are told by a thread."""
        for thread in threading.enumerate():
            if thread not in self.threads:
                thread.join()

    def check_accounts(self, credit: int) -> None:
        assert self.world is not None
        for acc in self.world.accs:
            assert (acc.ref is not None and acc.ref() is not None) == self.world.kept(acc), "P7"
            if acc.api is None:
                continue
            assert acc.api.close_reason is acc.ended
            assert acc.calls == (acc.ended is not None)
            reported, used = acc.api.used, self.world.used(acc)
            if acc.ended is not None:
                assert reported == 0
                continue
            assert 0 <= reported - used <= credit
            assert acc.hard is None or reported <= max(acc.hard, acc.reported)
            acc.reported = reported

    def check_participations(self) -> None:
        assert self.world is not None
        for part in self.world.parts:
            assert part.ref is not None
            assert (part.ref() is None) == (part.body is None), "P7"
            for line in part.lines:
                if line.api is not None:
                    assert line.api.closed == (line.closed or not part.live)
                    assert line.api.used == (part.told if part.live else 0)

    def check_closings(self) -> None:
        """Nobody closes but those who were closed, dropped, or gave up."""
        assert self.world is not None
        for acc, reason in self.world.closings:
            assert acc in self.world.justified, f"{acc} closed: {reason}"
            for one in self.world.below(acc):
                assert one.ended is not None
        self.world.closings.clear()
        self.world.justified.clear()

    def check_rounds(self) -> None:
        """P4: who is over a limit was looked at, unless a round pauses."""
        assert self.world is not None
        world = self.world
        if world.pending or world.witness.round is not None:
            return
        nobody = RoundOutcome.NOBODY_LEFT
        if world.tracker.used > world.tracker.limit:
            assert world.witness.outcomes.get("world") is nobody
        for acc in world.open_accs():
            if acc.limit is not None and acc.api is not None and acc.api.used > acc.limit:
                assert world.witness.outcomes.get(acc.name) is nobody

    def teardown(self) -> None:
        try:
            if self.world is not None and self.balanced:
                self.finish(self.world)
        finally:
            self.patch.undo()

    def finish(self, world: World) -> None:
        """The counts are right, a last round ends, and closing brings everything to nothing."""
        world.real.cost = 0.0
        for part in world.parts:
            part.behave("collapse", "honest", 0)
        world.wanted = 0
        ended = world.tracker.reclaim(0)
        for error in world.errors:
            raise error
        assert ended is not None
        left = [one for one in world.parts if one.live and one.items and not one.acc.minimum and not world.backwards]
        assert not left
        counts = world.tracker.statistics().counts
        totals = world.witness.totals
        told = {
            "rounds": counts.rounds,
            "victims": counts.victims,
            "nobody": counts.nobody_left,
            "freed": counts.bytes_reclaimed,
            "refused": counts.refused,
            "detached": counts.detached,
            "over": counts.over_releases,
        }
        assert told == totals, f"{told} {totals}"
        world.tracker.close()
        self.join()
        assert world.tracker.used == 0
        for acc in world.accs:
            assert acc.ended is not None
            assert acc.ended.kind is not CloseKind.TRACKER_CLOSED or acc.ended.account == "world"
            if acc.api is not None:
                with pytest.raises(MemoryQuotaError):
                    acc.api.claim(1)
        with pytest.raises(TrackerClosed):
            world.tracker.new_account()
        assert_books_balance(world.tracker, expected=0)
        assert isinstance(world.tracker, Tracker)
