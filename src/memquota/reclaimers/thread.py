"""Rounds in a thread of their own."""

from __future__ import annotations

import os
from queue import SimpleQueue
from threading import Event as Flag
from typing import final

from memquota._core.holdings import Holding
from memquota._rounds import Rounds
from memquota.errors import UsageValueError
from memquota.observe.log import log_callback_failure
from memquota.reclaimers._loop import start_thread
from memquota.reclaimers.inline import run_here

__all__ = ["Standing"]


class _Worker:
    """A standing thread that runs rounds when told to."""

    def __init__(self, rounds: Rounds) -> None:
        self._jobs: SimpleQueue[Flag | None] = SimpleQueue()
        self._rounds = rounds
        self.started = start_thread("memquota-reclaim", self._work)

    def run(self) -> Flag:
        """Run the rounds that are due. Returns what is set when it is done."""
        done = Flag()
        self._jobs.put(done)
        return done

    def end(self) -> None:
        """End, should it ever come back from what it is doing."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (done := self._jobs.get()) is not None:
            try:
                run_here(self._rounds, to_the_end=True)
            except BaseException:
                log_callback_failure("a participant", "in a round of the thread reclaimer")
            finally:
                done.set()


class _Watch:
    """A thread of one process that has a worker run the rounds, and replaces it when it hangs."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._process = os.getpid()
        self._ended = False
        # Reentrant, unlike an Event: finalizers may wake and end it.
        self._wakes: SimpleQueue[bool] = SimpleQueue()

    @property
    def alive(self) -> bool:
        """Whether it works, or soon will. In a child process it does not."""
        return not self._ended and self._process == os.getpid()

    def start(self) -> bool:
        """Start both threads. False where there cannot be both."""
        self._worker = _Worker(self._rounds)
        watched = False
        try:
            watched = self._worker.started and start_thread("memquota-watch", self._work)
        finally:
            if not watched:  # also where an exception from outside comes between the two
                self._worker.end()
        return watched

    def wake(self) -> None:
        """Have a round run, unless one is about to."""
        if self._wakes.empty():
            self._wakes.put(True)

    def end(self) -> None:
        """Let both threads end."""
        self._ended = True
        self._wakes.put(False)

    def _work(self) -> None:
        worker = self._worker
        try:
            while worker.started and self._wakes.get():
                done = worker.run()
                while not done.wait(self._rounds.timeout / 4):
                    runner = self._rounds.runner
                    if runner is not None and runner.overdue():
                        worker.end()
                        worker = _Worker(self._rounds)
                        done = worker.run()
                    if self._ended or not worker.started:
                        break
        finally:
            self._ended = True
            worker.end()


@final
class Standing:
    """A thread runs the rounds; claims only wake it.

    A second thread watches over it: when a participant hangs, its thread is abandoned and replaced, the account
    collapses, and the round goes on. Both are daemons, started at the first round and stopped by `Tracker.close`. Where
    they cannot be started, which is logged, claims go on without a round, and `Tracker.reclaim` runs its round itself.
    """

    asynchronous = False

    def __init__(self) -> None:
        self._rounds: Rounds | None = None
        self._watch: _Watch | None = None
        self._closed = False

    def attach(self, rounds: Rounds) -> None:
        """Serve a tracker."""
        if self._rounds is not None:
            raise UsageValueError("a reclaimer serves one tracker, and this one does already")
        self._rounds = rounds

    def wake(self, claimer: Holding | None) -> None:
        """Let the thread run the round that is due."""
        watch = self._watch
        if watch is None or not watch.alive:
            watch = self._start()
        if watch is not None and watch.alive:
            watch.wake()
        elif self._rounds is not None and self._rounds.awaited_here():
            run_here(self._rounds, to_the_end=True)  # who waits for a round that nobody else can run

    def close(self) -> None:
        """Let the threads end."""
        self._closed = True
        if self._watch is not None:
            self._watch.end()

    def _start(self) -> _Watch | None:
        assert self._rounds is not None
        watch = _Watch(self._rounds)
        try:
            if self._rounds.books.enter(self._take_over, watch) and not watch.start():
                watch.end()
        except BaseException:
            watch.end()  # the next to wake starts another
            raise
        return self._watch

    def _take_over(self, watch: _Watch) -> bool:
        # Lock: held, so that two claims do not start two.
        if self._watch is not None and self._watch.alive:
            return False
        self._watch = watch
        if self._closed:  # after the line above, so that either this or `close` ends it
            watch.end()
        return not self._closed
