"""F24, F40: threads that die and programs that end with claims, rounds and finalizers under way."""

import pytest

from tests.support.watchdog import run_isolated

#: Everything that a program may forget: a tracker with each reclaimer, claims, cycles, callbacks, a round that hangs.
PROGRAM = """
    import atexit, gc, logging, sys, threading
    from memquota import Tracker, Reclaimed
    from memquota.testing import ScriptedParticipant

    class Late:
        def __init__(self, account):
            self.cycle, self.account = self, account
            self.part = account.register_participant(self)
            self.part.claim(1000)
            self.clone = self.part.clone()
        def oldest_data(self): return None
        def reclaim(self, request): return Reclaimed.COLLAPSING
        def __del__(self):
            self.part.release(1000)
            self.part.close()
            self.account.close()

    reclaimer = "{reclaimer}"
    clock = lambda: 0.0
    tracker = Tracker(100_000, reclaimer=reclaimer, clock=clock, reclaim_timeout=30)
    tracker.subscribe(lambda event: None)
    accounts = [tracker.new_account() for _ in range(20)]
    for account in accounts:
        account.on_close(lambda reason: None)
    late = [Late(account) for account in accounts]
    kept = accounts[0].claimed(100)
    kept.__enter__()
    {more}
"""

MORE = {
    "left alone": "",
    "late claims at exit": "atexit.register(late[1].part.release, 1000), atexit.register(late[1].part.claim, 1000)",
    # Where no thread can be started any more that is logged.
    "a round at exit": "logging.disable(); atexit.register(tracker.new_account(minimum=10**6).claim, 90_000)",
    "closed at exit": "atexit.register(tracker.close)",
    "kept by a module": "sys.modules['memquota'].kept = [tracker, late, accounts]",
    "kept by a builtin": "import builtins; builtins.kept = late, tracker",
    "an exception": "sys.excepthook = lambda *_: None; raise ZeroDivisionError",
    "daemons that claim": """
def work():
    mine = late[0].part.clone()
    while True:
        mine.claim(10_000)
        mine.release(10_000)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
""",
    "a participant that hangs": """
hanging = ScriptedParticipant(tracker.new_account(), lambda: -1.0, answer="hang")
hanging.put(50_000)
young = tracker.new_account(minimum=10**6)
def push():
    young.claim(40_000)
    while not hanging.hanging.is_set():
        young.claim(1)
threading.Thread(target=push, daemon=True).start()
if reclaimer != "task":
    assert hanging.hanging.wait(20)
""",
    "a loop that runs it": """
import anyio
async def main():
    async with anyio.create_task_group() as tasks:
        await tasks.start(run)
        late[0].part.claim(90_000)
        tasks.cancel_scope.cancel()
async def run(*, task_status):
    await tracker.run(task_status=task_status)
if reclaimer == "task":
    anyio.run(main)
""",
}


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("reclaimer", ["inline", "thread", "task"])
def test_a_program_that_ends_says_nothing_of_us(reclaimer: str, more: str) -> None:
    """F24: exit code 0, within a few seconds, nothing printed, whatever is alive then."""
    source = PROGRAM.format(reclaimer=reclaimer, more=MORE[more].replace("\n", "\n    "))

    done = run_isolated(source, timeout=20, check=more != "an exception")

    assert (done.stdout, done.stderr) == ("", "")


def test_what_a_dead_thread_claimed_is_released_by_its_with_block_or_when_its_handle_is_collected() -> None:
    """F40: an exception ends it; an account dropped with bytes claimed is worth a ResourceWarning that says where."""
    run_isolated(
        """
        import gc, threading, warnings
        from memquota import Tracker
        from memquota.testing import ScriptedParticipant, assert_books_balance

        tracker = Tracker(2**20)
        threading.excepthook = lambda args: None

        def fails():
            with shared.claimed(5000):
                raise ZeroDivisionError

        def dies_with_a_participant():
            participant = ScriptedParticipant(tracker.new_account("participant's"), lambda: 0.0)
            participant.put(50_000)
            handle = shared.register_participant(participant)
            handle.claim(70_000)
            participant.cycle = participant
            raise ZeroDivisionError

        def dies_with_an_account():
            account = tracker.new_account("lost")
            account.claim(300)
            raise ZeroDivisionError

        shared = tracker.new_account("shared")
        for work in (fails, dies_with_a_participant, dies_with_an_account):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
                del thread
                gc.collect()
                assert tracker.used == 0, tracker.used
                assert_books_balance(tracker, 0)
            said = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
            if work is dies_with_an_account:
                assert said == ["account 'lost' was dropped with 300 bytes still claimed; close it, or keep it"], said
                site = dies_with_an_account.__code__.co_filename, dies_with_an_account.__code__.co_firstlineno + 1
                assert (caught[0].filename, caught[0].lineno) == site, caught[0]
        """
    )
