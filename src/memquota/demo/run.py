"""Running the relay once: its process in its limit, the clients here, the attackers in a process of their own."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from sysconfig import get_path
from tempfile import TemporaryFile
from time import monotonic
from typing import IO

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from memquota.demo.clients import Clients
from memquota.demo.confinement import choose_confinement
from memquota.demo.scenario import Measured, RunFailed, Sample, Scenario

__all__ = ["Progress", "run_once"]

#: Told what is going on: the phase, and the last sample with the deliveries so far.
Progress = Callable[[str, Sample | None, Measured, int], None]

_EVERY = 0.1
#: How long the attackers outlive an attack that nobody ended, in seconds.
_MARGIN = 10


async def run_once(scenario: Scenario, *, protected: bool, progress: Progress) -> Measured:
    """Run the relay with or without a quota: undisturbed first, then under attack. Leaves nothing behind.

    Raises:
        RunFailed: The relay ended for another reason than want of memory, or before the attack; or the attackers ended.
    """
    confinement = choose_confinement(scenario.limit)
    measured = Measured(protected=protected, confinement=confinement.kind)
    try:
        progress(f"starting in {confinement.kind}", None, measured, 0)
        command = confinement.command(_relay_command(scenario, protected))
        with TemporaryFile() as errors:
            async with await _start(command, errors) as relay:
                try:
                    await _Run(scenario, measured, progress).watch(relay, errors, confinement.usage)
                finally:
                    with suppress(ProcessLookupError):
                        relay.kill()
                    with anyio.CancelScope(shield=True):
                        await relay.wait()
        measured.peak_group = max(measured.peak_group, confinement.peak())
    finally:
        confinement.remove()
    return measured


async def _start(command: list[str], errors: IO[bytes]) -> Process:
    """Start a process that a Ctrl-C in the terminal does not reach: who started it ends it."""
    return await anyio.open_process(command, stdin=None, stderr=errors, start_new_session=True)


def _words(errors: IO[bytes]) -> str:
    """All that a process wrote there."""
    errors.seek(0)
    return errors.read().decode(errors="replace")


def _last_words(errors: IO[bytes]) -> str:
    """The last line that says something; a group of exceptions ends in a rule."""
    lines = [line.strip(" |+-") for line in _words(errors).splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def _relay() -> Path:
    """The example itself: beside a checkout's sources, else where the installed package put its copy."""
    checkout = Path(__file__).parents[3] / "examples" / "relay.py"
    return checkout if checkout.exists() else Path(get_path("data"), "share", "memquota", "relay.py")


def _relay_command(scenario: Scenario, protected: bool) -> list[str]:
    command = [sys.executable, str(_relay()), "--report", str(_EVERY), "--backend", scenario.backend]
    if not protected:
        return [*command, "--quota", "none"]
    command += ["--quota", str(scenario.quota), "--low-water", str(scenario.quota * 3 // 4)]
    command += ["--policy", scenario.policy]
    if scenario.peer_limit is not None:
        command += ["--peer-limit", str(scenario.peer_limit)]
    return command


class _Run:
    """One run under way."""

    def __init__(self, scenario: Scenario, measured: Measured, progress: Progress) -> None:
        self._scenario = scenario
        self._measured = measured
        self._progress = progress
        self._began = monotonic()
        self._phase = "undisturbed"
        self._latest: dict[str, float] = {}
        self._failure: str | None = None

    async def watch(self, relay: Process, errors: IO[bytes], usage: Callable[[int], int]) -> None:
        """Go through the phases while the relay lives."""
        assert relay.stdout is not None
        lines = BufferedByteReceiveStream(relay.stdout)
        try:
            port = json.loads(await lines.receive_until(b"\n", 1000))["port"]
        except (anyio.IncompleteRead, anyio.EndOfStream):
            code = await relay.wait()
            raise RunFailed(f"the relay did not start (code {code}): {_last_words(errors)}") from None
        clients = Clients(self._scenario, port, self._measured)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, lines)
            tasks.start_soon(self._sample, relay, usage, clients)
            tasks.start_soon(self._await_death, relay, errors, clients, tasks.cancel_scope)
            tasks.start_soon(self._phases, port, clients, tasks.cancel_scope)
            await clients.run()
        if self._failure is not None:
            raise RunFailed(self._failure)

    async def _phases(self, port: int, clients: Clients, scope: anyio.CancelScope) -> None:
        scenario, measured = self._scenario, self._measured
        await anyio.sleep(scenario.baseline if measured.protected else 1.0)
        measured.attack_began = monotonic() - self._began
        self._phase = "under attack"
        command = [sys.executable, "-m", "memquota.demo.attackers", "--port", str(port)]
        command += ["--count", str(scenario.attackers), "--scenario", scenario.name]
        seconds = scenario.seconds if measured.protected else scenario.patience
        command += ["--topics", str(scenario.topics), "--seconds", str(int(seconds) + _MARGIN)]
        with TemporaryFile() as errors:
            async with await _start(command, errors) as attackers:
                clients.attacked = True
                with anyio.move_on_after(seconds):
                    code = await attackers.wait()
                    self._failure = f"the attackers ended by themselves (code {code}): {_last_words(errors)}"
                    scope.cancel()
                with suppress(ProcessLookupError):  # when cancelled, anyio does it; twice, asyncio takes it amiss
                    attackers.kill()
        self._phase = "afterwards"
        clients.stop()
        await anyio.sleep(1.0)
        scope.cancel()

    async def _listen(self, lines: BufferedByteReceiveStream) -> None:
        with suppress(anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError, anyio.DelimiterNotFound):
            while True:
                self._latest = json.loads(await lines.receive_until(b"\n", 10_000))
                measured = self._measured
                measured.peak_tracked = int(self._latest["peak"])
                measured.victims = int(self._latest["victims"])
                measured.rounds = int(self._latest["rounds"])
                measured.longest_round = self._latest["longest_round"]

    async def _sample(self, relay: Process, usage: Callable[[int], int], clients: Clients) -> None:
        while relay.returncode is None:
            tracked, victims = int(self._latest.get("used", 0)), int(self._latest.get("victims", 0))
            sample = Sample(monotonic() - self._began, usage(relay.pid), tracked, victims)
            self._measured.samples.append(sample)
            self._measured.peak_group = max(self._measured.peak_group, sample.group)
            self._progress(self._phase, sample, self._measured, clients.received)
            await anyio.sleep(_EVERY)

    async def _await_death(self, relay: Process, errors: IO[bytes], clients: Clients, scope: anyio.CancelScope) -> None:
        code = await relay.wait()
        measured = self._measured
        if code != -signal.SIGKILL and "MemoryError" not in _words(errors):  # the latter in a limit of address space
            self._failure = f"the relay ended by itself (code {code}): {_last_words(errors)}"
        elif self._phase == "undisturbed":
            self._failure = "the relay was out of memory before the attack"
        else:
            measured.exit_code = code
            measured.died_after = monotonic() - self._began - measured.attack_began
            clients.count_due()
            with anyio.move_on_after(2):
                await clients.all_cut.wait()  # they have to notice
        scope.cancel()
