"""Rounds in the thread whose claim passed the limit."""

from __future__ import annotations

from functools import partial
from typing import final

from memquota._core.holdings import Holding
from memquota._core.steps import Ask
from memquota._rounds import Later, Rounds, Runner
from memquota.errors import UsageValueError
from memquota.observe.log import log_callback_failure
from memquota.reclaimers._loop import Answers, ask_here, call, start_thread, steps

__all__ = ["Inline", "run_here"]


@final
class Inline:
    """The thread whose claim passed the limit runs the round, with the lock free; claims of others go on meanwhile.

    A round that is not over after 5 ms of work goes on with the next claim. It cannot interrupt a participant that
    hangs; the next claim from another thread takes the overdue round over. One event loop alone whose own thread hangs
    in a participant is beyond help.
    """

    asynchronous = False
    #: Waking it runs the round then and there: only who claims does that.
    inline = True

    def __init__(self) -> None:
        self._rounds: Rounds | None = None

    def attach(self, rounds: Rounds) -> None:
        """Serve a tracker."""
        if self._rounds is not None:
            raise UsageValueError("a reclaimer serves one tracker, and this one does already")
        self._rounds = rounds

    def wake(self, claimer: Holding | None) -> None:
        """Run the round that is due."""
        assert self._rounds is not None
        run_here(self._rounds, claimer)

    def close(self) -> None:
        """Nothing runs by itself."""


def run_here(rounds: Rounds, claimer: Holding | None = None, *, to_the_end: bool = False) -> None:
    """Run the round that is due in this thread, unless somebody else runs it.

    Args:
        rounds: The tracker's rounds, as given to `Reclaimer.attach`.
        claimer: The participation whose claim started it: its owner may hold locks.
        to_the_end: Go on after a slice of 5 ms, instead of leaving the rest to the next claim.

    Raises:
        BaseException: What participants raise that is no Exception, such as KeyboardInterrupt. The round is over then,
            and the next claim starts another.
    """
    runner = Runner(claimer)
    try:
        if not rounds.take(runner):
            return
        for step in steps(rounds, runner):
            if isinstance(step, Ask):
                ask_here(rounds, runner, step)
            elif not to_the_end or step == "wait":
                rounds.pause(runner)
                break
    except BaseException:
        runner.left = True
        rounds.abandon(runner)
        raise
    finally:
        if runner.later:
            start_thread("memquota-ask-claimer", partial(_ask_later, runner.later))


def _ask_later(requests: list[Later]) -> None:
    """Tell participants whose account is closed already to give everything up: waits for their owners' locks."""
    for registration, participant, what in requests:
        try:
            call(registration, participant, what, Answers())
        except BaseException:
            log_callback_failure("a participant", "asked after its claim")
