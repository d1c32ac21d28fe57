"""Running the relay once: its process in its limit, the clients here, the attackers in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from sysconfig import get_path
from time import monotonic

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from memquota.demo.clients import Clients
from memquota.demo.confinement import choose_confinement
from memquota.demo.scenario import Measured, Sample, Scenario

__all__ = ["Progress", "run_once"]

#: Told what is going on: the phase, and the last sample with the deliveries so far.
Progress = Callable[[str, Sample | None, Measured, int], None]

_EVERY = 0.1


async def run_once(scenario: Scenario, *, protected: bool, progress: Progress) -> Measured:
    """Run the relay with or without a quota: undisturbed first, then under attack. Leaves nothing behind."""
    measured = Measured(protected=protected)
    confinement = choose_confinement(scenario.limit)
    progress(f"starting in {confinement.kind}", None, measured, 0)
    try:
        async with await anyio.open_process(
            confinement.command(_relay_command(scenario, protected)), stdin=None, stderr=subprocess.DEVNULL
        ) as relay:
            try:
                await _Run(scenario, measured, progress).watch(relay, confinement.usage)
            finally:
                with suppress(ProcessLookupError):
                    relay.kill()
                with anyio.CancelScope(shield=True):
                    await relay.wait()
        measured.peak_group = max(measured.peak_group, confinement.peak())
    finally:
        confinement.remove()
    return measured


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
        self._clients: Clients | None = None

    async def watch(self, relay: Process, usage: Callable[[int], int]) -> None:
        """Go through the phases while the relay lives."""
        assert relay.stdout is not None
        lines = BufferedByteReceiveStream(relay.stdout)
        port = json.loads(await lines.receive_until(b"\n", 1000))["port"]
        clients = self._clients = Clients(self._scenario, port, self._measured)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, lines)
            tasks.start_soon(self._sample, relay, usage)
            tasks.start_soon(self._await_death, relay, tasks.cancel_scope)
            tasks.start_soon(self._phases, port, clients, tasks.cancel_scope)
            await clients.run()
        self._measured.delivered = clients.received

    async def _phases(self, port: int, clients: Clients, scope: anyio.CancelScope) -> None:
        scenario, measured = self._scenario, self._measured
        await anyio.sleep(scenario.baseline if measured.protected else 1.0)
        measured.attack_began = monotonic() - self._began
        self._phase = "under attack"
        command = [sys.executable, "-m", "memquota.demo.attackers", "--port", str(port)]
        command += ["--count", str(scenario.attackers), "--scenario", scenario.name]
        command += ["--topics", str(scenario.topics)]
        async with await anyio.open_process(command, stdin=None, stdout=None, stderr=subprocess.DEVNULL) as attackers:
            try:
                clients.attacked = True
                await anyio.sleep(scenario.seconds if measured.protected else scenario.patience)
            finally:
                with suppress(ProcessLookupError):
                    attackers.kill()
        self._phase = "afterwards"
        clients.stop()
        await anyio.sleep(1.0)
        measured.delivered = clients.received
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

    async def _sample(self, relay: Process, usage: Callable[[int], int]) -> None:
        while True:
            tracked, victims = int(self._latest.get("used", 0)), int(self._latest.get("victims", 0))
            sample = Sample(monotonic() - self._began, usage(relay.pid), tracked, victims)
            self._measured.samples.append(sample)
            self._measured.peak_group = max(self._measured.peak_group, sample.group)
            self._progress(self._phase, sample, self._measured, self._clients.received if self._clients else 0)
            await anyio.sleep(_EVERY)

    async def _await_death(self, relay: Process, scope: anyio.CancelScope) -> None:
        code = await relay.wait()
        measured = self._measured
        measured.exit_code = code
        measured.died_after = monotonic() - self._began - measured.attack_began
        if self._clients is not None:
            self._clients.stop()
            measured.delivered = self._clients.received
        scope.cancel()
