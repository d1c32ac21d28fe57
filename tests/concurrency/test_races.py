"""Races with one outcome: one thread is held at the worst point while another one acts."""

import gc

import pytest

import memquota.account as account_module
from memquota import Account, AccountClosed, Closed, MemoryReclaimed, Participation, ParticipationClosed, Tracker
from memquota.observe import Event, VictimAsked
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.concurrency.support import InThread, Point, held, someone_inside

MIB = 2**20


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tracker(clock: FakeClock) -> Tracker:
    return Tracker(MIB, clock=clock)


@pytest.fixture
def account(tracker: Tracker) -> Account:
    return tracker.new_account("a")


# --- calls that find somebody inside the books ------------------------------------------------------------------------


def test_a_release_that_another_thread_books_takes_nothing_of_what_its_owner_claims_meanwhile(
    tracker: Tracker, account: Account, clock: FakeClock
) -> None:
    participant = ScriptedParticipant(account, clock)
    participant.participation.claim(5000)

    with someone_inside(tracker) as inside:
        participant.participation.release(3000)  # left for whoever is inside, who stops in the middle of it
        with held(tracker._books.ledger, "_move") as booking:
            inside.let_go()
            booking.await_arrival()
            participant.participation.claim(1500)  # from credit, so that it waits for nobody
            booking.let_go()

    assert participant.participation.used == 3500
    assert_books_balance(tracker, 3500)


def test_a_release_waits_for_nobody(tracker: Tracker, account: Account, clock: FakeClock) -> None:
    """P6: release, close and destroy leave a note where the lock is not free."""
    one, two, three = (ScriptedParticipant(account, clock) for _ in range(3))
    for participant in (one, two, three):
        participant.participation.claim(50_000)
    account.claim(7)

    with someone_inside(tracker):
        one.participation.release(50_000)
        two.participation.close()
        three.participation.destroy()
        account.release(7)

    assert_books_balance(tracker, 0)


def test_nothing_can_be_claimed_from_a_handle_whose_close_waits_to_be_booked(
    tracker: Tracker, account: Account, clock: FakeClock
) -> None:
    participant = ScriptedParticipant(account, clock)
    participant.participation.claim(5000)

    with someone_inside(tracker) as inside:
        participant.participation.close()
        claiming = InThread(participant.participation.claim, 1)
        inside.let_go()
        with pytest.raises(ParticipationClosed):
            claiming.result()

    assert tracker.used == 0


@pytest.mark.parametrize("moment", ["_leave", "settle"])  # before the note is there; when it is, and nobody looked yet
def test_a_note_left_while_whoever_is_inside_is_leaving_is_found(
    tracker: Tracker, account: Account, clock: FakeClock, moment: str
) -> None:
    """P6: who is inside looks for notes after saying so; who leaves one looks after that whether anybody is inside."""
    participant = ScriptedParticipant(account, clock)
    participant.participation.claim(50_000)
    books = tracker._books

    with someone_inside(tracker) as inside, held(books, moment) as leaving_a_note:
        releasing = InThread(participant.participation.release, 50_000)
        leaving_a_note.await_arrival()
        inside.leave()
        leaving_a_note.let_go()
        releasing.result()

    assert not books.notes
    assert_books_balance(tracker, 0)


# --- ends that meet claims --------------------------------------------------------------------------------------------


def test_two_threads_that_close_one_handle_end_it_once(tracker: Tracker, account: Account, clock: FakeClock) -> None:
    """F8: with a second handle that stays, closing twice would end the participation under it."""
    participant = ScriptedParticipant(account, clock)
    participant.participation.claim(300)
    doomed = participant.participation.clone()

    with held(tracker._books.ledger, "close_handle") as closing:
        first = InThread(doomed.close)
        closing.await_arrival()
        doomed.close()  # leaves a note, as the first one is inside
    first.result()

    assert_books_balance(tracker, 300)
    assert not participant.participation.closed
    participant.participation.close()
    assert_books_balance(tracker, 0)


@pytest.mark.parametrize("end", ["close", "close_account", "close_tracker", "destroy"])
def test_an_end_that_meets_a_claim_half_way_leaves_nothing_claimed(
    tracker: Tracker, account: Account, clock: FakeClock, end: str
) -> None:
    participant = ScriptedParticipant(account, clock)
    part = participant.participation
    ends = {
        "close": part.close,
        "close_account": account.close,
        "close_tracker": tracker.close,
        "destroy": part.destroy,
    }

    with held(tracker._books.ledger, "_move") as claiming:
        claim = InThread(part.claim, 50_000)
        claiming.await_arrival()
        ends[end]()
    claim.result()

    assert tracker.used == 0
    assert part.closed
    with pytest.raises(Closed):
        part.claim(1)
    assert_books_balance(tracker, 0)


def test_a_claim_from_credit_that_meets_a_collapse_counts_nothing(
    tracker: Tracker, account: Account, clock: FakeClock
) -> None:
    """A fast path under way may put its credit back once: those bytes are written off already."""
    participant = ScriptedParticipant(account, clock)
    part = participant.participation
    part.claim(5000)
    left = part._credit - 100  # what a claim of 100 bytes in another thread has just computed

    tracker.reclaim(0)
    part._credit = left

    part.claim(left)
    with pytest.raises(MemoryReclaimed):
        part.claim(1)
    assert tracker.used == 0
    part.release(5000)
    part.close()
    assert_books_balance(tracker, 0)


def test_an_account_goes_below_a_parent_that_is_being_closed_or_is_refused(tracker: Tracker, account: Account) -> None:
    account.claim(100)
    parent, late = tracker.new_account("parent"), tracker.new_account("late")

    with held(tracker._books, "enter") as entering:
        linking = InThread(account.add_parent, late)
        entering.await_arrival()  # it has seen an open account
        late.close()
    with pytest.raises(AccountClosed):
        linking.result()
    assert (account.closed, tracker.used) == (False, 100)

    with someone_inside(tracker):
        parent.close()  # a note, which the next one in finds first
        linking = InThread(account.add_parent, parent)
    with pytest.raises(AccountClosed):
        linking.result()
    assert (account.closed, tracker.used) == (False, 100)
    assert_books_balance(tracker, 100)


def test_a_child_that_was_just_put_below_an_account_goes_with_it(tracker: Tracker, account: Account) -> None:
    account.claim(100)
    parent = tracker.new_account("parent")

    with held(account_module, "add_parent", after=True) as linked:
        linking = InThread(account.add_parent, parent)
        linked.await_arrival()
        parent.close()  # a note, for the one who has just put the account below it
    linking.result()

    assert (account.closed, tracker.used) == (True, 0)
    assert_books_balance(tracker, 0)


def test_an_account_that_closes_while_its_participant_is_made_counts_nothing(
    tracker: Tracker, account: Account
) -> None:
    point = Point()

    class Made(ScriptedParticipant):
        def __init__(self, participation: Participation) -> None:
            self.participation = participation
            participation.claim(100)
            point.hold()

    making = InThread(account.register_participant_with, Made)
    point.await_arrival()
    account.close()
    point.let_go()
    made = making.result()

    with pytest.raises(AccountClosed):
        made.participation.claim(1)
    assert tracker.used == 0


def test_a_victim_that_dies_between_survey_and_ask_is_skipped(
    tracker: Tracker, account: Account, clock: FakeClock
) -> None:
    """F22: its bytes are written off once, and the round goes on to the next one."""
    point = Point()

    def slowly(participant: ScriptedParticipant) -> float:
        point.hold()
        return participant.items[0][0]

    doomed = [ScriptedParticipant(account, clock)]
    second = ScriptedParticipant(tracker.new_account("second"), clock, age=slowly)
    third = ScriptedParticipant(tracker.new_account("third"), clock)
    for participant in (*doomed, second, third):
        clock.advance(1)
        participant.put(400_000 if participant is not third else 200_000)
    events: list[Event] = []
    tracker.subscribe(events.append)

    claiming = InThread(third.put, 200_000)
    point.await_arrival()  # the oldest is chosen, and the next one is asked for its age
    doomed.clear()
    gc.collect()
    point.let_go()
    claiming.result()

    asked = [event.account for event in events if isinstance(event, VictimAsked)]
    assert asked == ["second"] or asked == ["a", "second"]
    assert (tracker.used, third.held) == (400_000, 400_000)
    assert_books_balance(tracker, 400_000)
