"""A provider shuts the gate while real memory is short; one that fails never fails work."""

import threading

import pytest

from memquota import Gate, Permit, Tracker, UsageError, WouldBlock
from memquota._core.waiting_line import Ticket
from memquota.host.readings import FixedProvider
from memquota.observe import Event, GateClosed, GateOpened, ProviderFailed, ProviderRecovered
from memquota.testing import FakeClock
from tests.gates.support import until


class Counting:
    """A provider that counts how often it is asked."""

    def __init__(self, source: FixedProvider) -> None:
        self.source = source
        self.asked = 0

    def read(self) -> object:
        self.asked += 1
        return self.source.read()


class World:
    def __init__(self, used: int = 50) -> None:
        self.clock = FakeClock(100.0)
        self.tracker = Tracker(1000, clock=self.clock)
        self.source = FixedProvider(128, used)
        self.provider = Counting(self.source)
        self.events: list[Event] = []
        self.tracker.subscribe(self.events.append)
        self.gate = Gate(self.tracker, provider=self.provider, high=0.75, hysteresis=0.25)  # type: ignore[arg-type]

    def later(self, used: int | None = None, seconds: float = 0.125) -> None:
        self.clock.advance(seconds)
        if used is not None:
            self.source.set(used=used)

    def admits(self) -> bool:
        try:
            self.gate.acquire_nowait().release()
        except WouldBlock:
            return False
        return True

    def told(self, kind: type[Event]) -> int:
        self.tracker.statistics()
        return sum(isinstance(event, kind) for event in self.events)


def test_it_shuts_above_high_and_opens_below_high_less_the_hysteresis() -> None:
    world = World()
    with world.gate.acquire():
        answers = []
        for used in (96, 97, 80, 64, 63, 96, 97):
            world.later(used)
            answers.append(world.admits())

        assert answers == [True, False, False, False, True, True, False]
    assert (world.told(GateClosed), world.told(GateOpened)) == (2, 1)


def test_it_is_asked_at_most_every_tenth_of_a_second() -> None:
    world = World()

    for _ in range(10):
        world.admits()
        world.later(seconds=0.0625)

    assert world.provider.asked == 5


def test_a_failing_provider_leaves_its_last_reading_valid_for_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """F45: then the gate goes on without, and says so once."""
    world = World(used=120)
    assert not _inside_admits(world)
    world.source.fail("gone")

    world.later(seconds=4.75)
    assert not _inside_admits(world)
    world.later(seconds=0.5)
    assert world.admits()
    assert world.gate.statistics().fraction is None
    for _ in range(3):
        world.later()
        assert world.admits()
    assert world.told(ProviderFailed) == 1
    world.later(used=120)
    assert not _inside_admits(world)
    assert world.told(ProviderRecovered) == 1
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "tracker: gate 'gate' gets no memory readings, and soon goes on without: ReadingUnavailable: gone"
    ]


@pytest.mark.parametrize("answer", [None, 1.5, float("nan"), -0.1, "high", RuntimeError("broken"), OSError("gone")])
def test_a_provider_that_talks_nonsense_never_fails_work(answer: object) -> None:
    class Nonsense:
        def read(self) -> object:
            if isinstance(answer, Exception):
                raise answer
            return type("Reading", (), {"fraction": answer})()

    gate = Gate(Tracker(1000), provider=Nonsense())  # type: ignore[arg-type]

    with gate.acquire(10):
        assert gate.statistics().fraction is None


def test_with_nobody_inside_and_readings_that_stand_still_one_goes_in() -> None:
    world = World(used=120)

    assert not world.admits()
    world.later(seconds=0.9)
    assert not world.admits()
    world.later(seconds=0.2)
    with world.gate.acquire_nowait():
        assert not world.admits()


def test_who_goes_in_though_memory_is_short_waits_for_room_in_the_tracker_all_the_same() -> None:
    """A hard limit would refuse it, and without one a round would take memory that it did not ask for."""
    world = World(used=120)
    data = world.tracker.new_account("data")
    data.claim(900)
    assert not world.admits()
    world.later(seconds=1.1)

    with pytest.raises(WouldBlock):
        world.gate.acquire_nowait(101)
    data.release(1)
    world.gate.acquire_nowait(101).release()
    assert not data.closed


def test_readings_of_a_living_process_stand_still_within_a_thousandth_of_the_limit() -> None:
    """Some pages come and go all the time: with nobody inside, that alone would keep everybody out for good."""
    source = FixedProvider(100_000, 95_000)
    clock = FakeClock(100.0)
    gate = Gate(Tracker(1000, clock=clock), provider=source)

    answers = []
    for used in (95_000, 95_050, 94_950, 95_090, 95_300, 95_000):
        source.set(used=used)
        clock.advance(0.5)
        try:
            gate.acquire_nowait().release()
        except WouldBlock:
            answers.append(False)
        else:
            answers.append(True)

    assert answers == [False, False, True, True, False, False]


def test_the_same_provider_is_judged_by_another_measure_from_what_it_said_last() -> None:
    """Whatever it says is between the thresholds, or it fails just now: a gate that is shut does not open by that."""
    world = World(used=120)
    assert not _inside_admits(world)
    world.later(used=80)

    world.gate.reconfigure(high=0.75)
    assert not _inside_admits(world)
    world.source.fail("gone")
    world.later()
    world.gate.reconfigure(high=0.7)
    assert not _inside_admits(world)
    world.gate.reconfigure(high=0.9, hysteresis=0.2)
    assert _inside_admits(world)
    world.gate.reconfigure(high=0.6)
    assert not _inside_admits(world)


def test_a_provider_that_follows_one_that_failed_recovers_and_fails_anew() -> None:
    """F45: each is told once."""
    world = World()
    world.source.fail("gone")
    assert world.admits()
    assert (world.told(ProviderFailed), world.told(ProviderRecovered)) == (1, 0)

    second = FixedProvider(128, 50)
    world.gate.reconfigure(provider=second)
    assert world.admits()
    assert (world.told(ProviderFailed), world.told(ProviderRecovered)) == (1, 1)
    second.fail("gone too")
    world.later()
    assert world.admits()
    assert (world.told(ProviderFailed), world.told(ProviderRecovered)) == (2, 1)


def test_a_provider_is_not_asked_in_the_middle_of_its_own_answer() -> None:
    """F43: by a signal handler or finalizer that releases a permit while its thread asks; it may hold a lock."""
    clock = FakeClock(100.0)
    gate = Gate(Tracker(1000, clock=clock), max_concurrent=2)
    permits = [gate.acquire(5), gate.acquire(5)]
    asked = []

    class Slow:
        def read(self) -> object:
            asked.append(1)
            clock.advance(1.0)
            if permits:
                permits.pop().release()
            gate.statistics()
            return FixedProvider(100, 10).read()

    gate.reconfigure(provider=Slow())  # type: ignore[arg-type]

    assert asked == [1]
    permits.pop().release()


def test_who_waits_looks_again_by_itself() -> None:
    world = World(used=120)
    inside = _force_in(world)
    waited = threading.Thread(target=lambda: world.gate.acquire().release())
    waited.start()
    until(lambda: world.gate.statistics().waiting == 1)

    world.later(used=10)  # nobody tells the gate
    waited.join(20)

    assert not waited.is_alive()
    inside.release()


def test_another_provider_counts_at_once() -> None:
    world = World(used=120)
    inside = _force_in(world)
    assert not world.admits()

    world.gate.reconfigure(provider=None)

    assert world.admits()
    world.gate.reconfigure(provider=FixedProvider(100, 95))
    assert not world.admits()
    inside.release()


@pytest.mark.parametrize(
    "options",
    [
        {"high": 0.0},
        {"high": 1.1},
        {"high": "0.9"},
        {"high": True},
        {"hysteresis": -0.1},
        {"hysteresis": 0.9},
        {"high": float("nan")},
        {"provider": object()},
        {"max_concurrent": 0},
        {"max_concurrent": 1.5},
        {"max_concurrent": True},
        {"capacity": 0},
        {"capacity": "lots"},
        {"on_full": "explode"},
        {"oversized": "shrink"},
    ],
)
def test_wrong_arguments_are_refused_and_change_nothing(options: dict[str, object]) -> None:
    tracker = Tracker(1000)
    with pytest.raises(UsageError):
        Gate(tracker, **options)  # type: ignore[arg-type]
    gate = Gate(tracker, capacity=10, max_concurrent=2)

    with pytest.raises(UsageError):
        gate.reconfigure(**{"capacity": 5, **options})  # type: ignore[arg-type]

    assert (gate.statistics().capacity, gate.statistics().max_concurrent) == (10, 2)


def _inside_admits(world: World) -> bool:
    """Whether the gate admits one while somebody is inside: what stands still does not count then."""
    line = world.gate._admission.line
    somebody = Ticket(0)
    line.enter(somebody)  # type: ignore[arg-type]
    try:
        return world.admits()
    finally:
        line.back_out(somebody)  # type: ignore[arg-type]


def _force_in(world: World) -> Permit:
    world.later(used=10, seconds=0.2)
    permit = world.gate.acquire_nowait()
    world.later(used=120)
    assert not world.admits()
    return permit
