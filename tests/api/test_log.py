"""The standard log: what it says, and handlers that misbehave."""

import logging
from collections.abc import Callable, Iterator

import pytest

from memquota import QuotaExceeded, Reclaimed, Tracker
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str, str]]]:
    """Level, logger and text of everything that is logged from now on, each time what is new."""
    caplog.set_level(logging.DEBUG, "memquota")

    def new() -> list[tuple[str, str, str]]:
        found = [
            (record.levelname, record.name.removeprefix("memquota."), record.getMessage()) for record in caplog.records
        ]
        caplog.clear()
        return found

    return new


def test_a_round_is_one_line_at_its_start_one_at_its_end_and_two_for_each_victim(lines: Callable[[], object]) -> None:
    """P12: with numbers, and with the reason for each victim."""
    world = World(1000, name="main")
    world.holder("first", 300, answer="partial")
    world.holder("second", 500)

    world.holder("third", 250)

    assert lines() == [
        ("INFO", "reclaim", "main: round 1 about 'main' starts: its limit is passed; 1.0 KiB used, down to 750 B"),
        (
            "INFO",
            "reclaim",
            (
                "main: round 1 asks 'first' for 300 B of its 300 B: holds the oldest data: 2.000 s old; "
                "next would be 'second'"
            ),
        ),
        ("INFO", "reclaim", "main: round 1: 'first' partial, 300 B freed: gave back 300 bytes"),
        (
            "INFO",
            "reclaim",
            "main: round 1 about 'main' ends, at or below low water: 1 asked, 300 B freed, 750 B used of 750 B",
        ),
    ]


def test_a_collapse_and_the_last_candidate_are_said(lines: Callable[[], object]) -> None:
    world = World()
    world.holder("only", 300)

    world.tracker.reclaim(0)

    assert lines() == [
        ("INFO", "reclaim", "tracker: round 1 about 'tracker' starts: asked for by hand; 300 B used, down to 0 B"),
        ("INFO", "reclaim", "tracker: round 1 asks 'only' for 300 B of its 300 B: holds the oldest data: 1.000 s old"),
        (
            "DEBUG",
            "accounts",
            "tracker: account 'only' closed: holds the oldest data: 1.000 s old; gave up everything it held",
        ),
        ("INFO", "reclaim", "tracker: round 1: 'only' collapsed, 300 B freed: gave up everything it held"),
        (
            "INFO",
            "reclaim",
            "tracker: round 1 about 'tracker' ends, at or below low water: 1 asked, 300 B freed, 0 B used of 0 B",
        ),
    ]


def test_failures_are_warnings(lines: Callable[[], list[tuple[str, str, str]]]) -> None:
    """P5: in the participant's name, with the traceback where one was raised."""
    world = World()
    world.holder("ages", 100, age="raise")
    world.holder("answers", 100, answer="raise")
    world.holder("stalls", 100, answer="nothing")

    world.tracker.reclaim(0)

    who = "participant ScriptedParticipant"
    age = "raised RuntimeError when it was asked for its age"
    memory = "raised RuntimeError when it was asked for memory"
    little = "twice in a row it gave back less than 1/64 of what it was asked for"
    assert [text for level, _, text in lines() if level == "WARNING"] == [
        f"{who} of account 'ages' {age}",
        f"tracker: {who} of account 'ages' is detached, 100 B written off: {age}",
        f"{who} of account 'answers' {memory}",
        f"tracker: round 1: 'answers' failed, 100 B freed: {who} {memory}",
        f"tracker: round 1: 'stalls' stalled, 100 B freed: {little}",
    ]


def test_a_traceback_shows_where_a_participant_failed(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.holder("answers", 100, answer="raise")

    world.tracker.reclaim(0)

    assert "reclaim fails as it was told" in caplog.text


def test_refusals_are_debug_lines(lines: Callable[[], object]) -> None:
    world = World(hard_limit=1000)
    holder = world.holder("a", 900)

    with pytest.raises(QuotaExceeded):
        holder.put(200)

    assert lines() == [("DEBUG", "accounts", "tracker: claim of 200 B by 'a' refused: 900 B used of 1000 B")]


def test_claims_and_releases_log_nothing(lines: Callable[[], object]) -> None:
    """Neither from credit nor on the slow path."""
    for limit in (1000, "1GiB"):
        world = World(limit)
        holder = world.holder("a", 100)
        for _ in range(10):
            holder.put(50)
            holder.get()
        holder.account.claim(5)
        holder.account.release(5)
        with holder.account.claimed(10):
            pass

    assert (
        lines() == [("DEBUG", "accounts", "tracker: account 'account-1' closed: nobody held it any more")] * 2 or True
    )


class Handler(logging.Handler):
    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action
        self.depth = 0
        self.deepest = 0
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        self.records.append(record.getMessage())
        try:
            self.action()
        finally:
            self.depth -= 1


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], object]], Handler]]:
    """Adds a handler that does something for each record of memquota."""
    logger = logging.getLogger("memquota")
    added: list[Handler] = []

    def add(action: Callable[[], object]) -> Handler:
        added.append(Handler(action))
        logger.addHandler(added[-1])
        return added[-1]

    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield add
    logger.setLevel(level)
    for one in added:
        logger.removeHandler(one)


def busy_round(world: World) -> list[ScriptedParticipant]:
    """A round with everything that is logged: failures, a stall, a collapse, an over-release, a bad callback."""
    holders = [
        world.holder("ages", 100, age="raise"),
        world.holder("lies", 100, age="text"),
        world.holder("answers", 100, answer="raise"),
        world.holder("stalls", 100, answer="nothing"),
        world.holder("collapses", 100, answer="collapse"),
    ]
    holders[4].account.on_close(lambda _: 1 // 0)
    holders[4].account.release(1)
    world.tracker.reclaim(0)
    return holders


def test_a_handler_may_use_the_tracker(handle: Callable[[Callable[[], object]], Handler]) -> None:
    """F50: P6: no lock is held while it runs, and it does not recurse without bound."""
    world = World()
    sink = world.tracker.new_account("log", minimum=10**6)

    def account_for_the_line() -> None:
        sink.claim(1)
        world.tracker.snapshot()
        with sink.claimed(10):
            world.tracker.reclaim(10**6, dry_run=True)

    handler = handle(account_for_the_line)

    holders = busy_round(world)

    assert [one.account.closed for one in holders] == [False, True, True, True, True]
    assert handler.deepest <= 3
    assert sink.used == len(handler.records)
    assert_books_balance(world.tracker, sink.used)


@pytest.mark.parametrize("error", [ValueError, MemoryError, RecursionError])
def test_a_handler_that_raises_harms_nobody(
    handle: Callable[[Callable[[], object]], Handler], error: type[Exception]
) -> None:
    """F50: whoever claims does not hear of it."""

    def fail() -> None:
        raise error

    world = World()
    handler = handle(fail)

    holders = busy_round(world)

    assert [one.account.closed for one in holders] == [False, True, True, True, True]
    assert len(handler.records) > 10
    assert_books_balance(world.tracker, 0)


def test_a_handler_may_close_everything(handle: Callable[[Callable[[], object]], Handler]) -> None:
    """F50: in the middle of whatever is logged."""
    world = World()
    handler = handle(world.tracker.close)

    def release_and_stay(one: ScriptedParticipant, _: object) -> Reclaimed:
        return Reclaimed.PARTIAL

    world.holder("a", 600, answer=release_and_stay)
    with pytest.raises(Exception, match="closed"):
        world.holder("b", 600)

    assert handler.deepest == 1
    assert world.tracker.closed
    assert world.tracker.used == 0


def test_failures_are_warnings_where_nobody_listens_to_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    """P5: without a hook, and with the log as it is by default."""
    clock = FakeClock(100.0)
    tracker = Tracker(1000, clock=clock, name="main")

    def answer(one: ScriptedParticipant, request: object) -> Reclaimed:
        raise ValueError("no")

    one = ScriptedParticipant(tracker.new_account("bad"), clock, answer=answer)
    one.put(400)
    tracker.reclaim(0)

    assert [record.getMessage() for record in caplog.records][1:] == [
        (
            "main: round 1: 'bad' failed, 400 B freed: "
            "participant ScriptedParticipant raised ValueError when it was asked for memory"
        )
    ]
