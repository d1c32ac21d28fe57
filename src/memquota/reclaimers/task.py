"""Rounds in a task of an event loop, which can await participants."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from inspect import isawaitable
from typing import final

from anyio import TASK_STATUS_IGNORED, CancelScope, Event, create_task_group, get_cancelled_exc_class, move_on_after
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from memquota._core.holdings import Holding
from memquota._core.steps import Ask
from memquota._loops import Loop, being_cancelled, current_loop
from memquota._rounds import Rounds, Runner
from memquota.errors import UsageError, UsageValueError
from memquota.reclaimers._loop import Answers, Request, call_begins, call_ends, request, requests_of, steps

__all__ = ["Task"]


class _Late(Exception):
    """A participant has not answered at its deadline."""


class _Reply:
    """The answer of an asynchronous participant, awaited by a task of its own, so that nobody has to wait for it."""

    def __init__(self, answer: Awaitable[object]) -> None:
        self._answer = answer
        self._began = False
        self._arrived = Event()
        self._scope = CancelScope()
        self._value: object = None
        self._error: BaseException | None = None

    async def receive(self) -> None:
        self._began = True
        with self._scope:
            try:
                self._value = await self._answer
            except get_cancelled_exc_class() as error:
                if being_cancelled():
                    raise
                self._error = error  # it awaited somebody else who was cancelled
            except Exception as error:
                self._error = error
            finally:
                self._arrived.set()

    async def within(self, timeout: float) -> object:
        """The answer, or what was raised; after so many seconds it is cancelled, and late whatever it does."""
        try:
            with move_on_after(timeout):
                await self._arrived.wait()
            if not self._arrived.is_set():
                self._scope.cancel()
                raise _Late
            if self._error is not None:
                raise self._error
            return self._value
        finally:
            if not self._began and isinstance(self._answer, Coroutine):
                self._answer.close()  # never awaited: would warn when it is collected


@final
class Task:
    """A task of asyncio or trio runs the rounds: `async with tracker`, or `task_group.start_soon(tracker.run)`.

    Participants may be asynchronous; those of one victim are asked at once, as are several victims when it takes them
    all. Each is cancelled when its time is up. The loop breathes at least every 5 ms. While no task runs, nothing is
    reclaimed.

    Cancellation:
        Ends the round where it is; whoever runs the task again starts a new one.
    """

    asynchronous = True

    def __init__(self) -> None:
        self._rounds: Rounds | None = None
        self._loop: Loop | None = None
        # Whether the loop was told already, and has not got to it yet: it may hang while others claim and claim.
        self._told = False
        self._woken = Event()
        self._settled = Event()
        self._closed = False
        # Whoever ran the last rounds.
        self._runner: Runner | None = None

    def attach(self, rounds: Rounds) -> None:
        """Serve a tracker."""
        if self._rounds is not None:
            raise UsageValueError("a reclaimer serves one tracker, and this one does already")
        self._rounds = rounds
        rounds.books.after_fork.append(self._after_fork)

    def wake(self, claimer: Holding | None) -> None:
        """Let the task run the round that is due. Any thread; never waits."""
        loop = self._loop
        if loop is not None and not self._told:
            self._told = True
            heard = False
            try:
                heard = loop.call_soon(self._set)
            finally:
                if not heard:  # it is gone, or there was no memory: another loop may come
                    self._told = False

    def close(self) -> None:
        """Let the task end."""
        self._closed = True
        self.wake(None)

    def _set(self) -> None:
        self._told = False  # first: whoever comes now is not seen any more by what follows
        self._woken.set()
        if self._closed:
            self._settled.set()

    def _after_fork(self) -> None:
        """In a child process the loop is the parent's."""
        self._loop = None

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run rounds until the tracker is closed.

        Raises:
            UsageError: Another task runs them already.
        """
        assert self._rounds is not None
        if self._loop is not None and self._loop.call_soon(_nothing):
            raise UsageError("another task runs this tracker already")
        if self._runner is not None:
            self._runner.left = True  # its loop was closed under it
        self._loop = loop = current_loop()
        self._told = False  # whoever told another loop
        self._woken = Event()
        try:
            async with create_task_group() as asks:
                task_status.started()
                while not self._closed:
                    await self._run_rounds(self._rounds, asks)
                    await self._woken.wait()
                    self._woken = Event()
                asks.cancel_scope.cancel()  # who was late with an answer may be at it still
        finally:
            if self._loop is loop:
                self._loop = None

    async def _run_rounds(self, rounds: Rounds, asks: TaskGroup) -> None:
        runner = self._runner = Runner()
        try:
            if not rounds.take(runner):
                return
            for step in steps(rounds, runner):
                if isinstance(step, Ask):
                    asks.start_soon(self._ask, rounds, runner, asks, step)
                elif step == "wait":
                    self._settled = Event()
                    if not self._closed:
                        await self._settled.wait()
                    if self._closed:
                        return  # whoever is being asked has an hour, perhaps
                else:
                    await checkpoint()
        finally:
            runner.left = True
            rounds.abandon(runner)  # unless it is over

    async def _ask(self, rounds: Rounds, runner: Runner, asks: TaskGroup, ask: Ask) -> None:
        answers = Answers()
        async with create_task_group() as participants:
            for asked in requests_of(rounds, runner, ask, answers):
                participants.start_soon(self._ask_one, rounds, runner, asks, ask, asked, answers)
        rounds.settle(runner, ask, collapsing=answers.collapsing, failure=answers.failure)
        self._settled.set()

    async def _ask_one(
        self, rounds: Rounds, runner: Runner, asks: TaskGroup, ask: Ask, asked: Request, answers: Answers
    ) -> None:
        registration, participant, wanted = asked
        try:
            started = call_begins(rounds, runner, registration, ask)
            try:
                answer = participant.reclaim(request(rounds, ask, wanted, started))
            finally:
                took = call_ends(runner, started)
            if took > rounds.timeout:
                answers.fail(registration, f"took {took:.3f} s to answer when it was asked for memory")
            if isawaitable(answer):
                reply = _Reply(answer)
                asks.start_soon(reply.receive)
                answer = await reply.within(rounds.timeout)
            answers.take(registration, answer)
        except _Late:
            answers.fail(registration, f"did not answer within {rounds.timeout} s")
        except get_cancelled_exc_class() as error:
            if being_cancelled():
                raise
            answers.fail(registration, f"raised {type(error).__name__} when it was asked for memory", trace=True)
        except Exception as error:
            answers.fail(registration, f"raised {type(error).__name__} when it was asked for memory", trace=True)


def _nothing() -> None:
    """Find out whether a loop still runs what it is given."""
