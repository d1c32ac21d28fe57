"""Runs of the demonstration with real processes: what they notice, and what they leave behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

import memquota
from memquota.demo import clients as demo_clients
from memquota.demo import run as demo_run
from memquota.demo.clients import Clients
from memquota.demo.confinement import AddressSpace
from memquota.demo.run import run_once
from memquota.demo.scenario import Measured, RunFailed, Sample, Scenario
from tests.support.relay import serving

MIB = 2**20


def test_a_short_attack_on_the_real_relay() -> None:
    """Not the demonstration, which needs a quiet machine: what must hold at any speed."""
    seen: list[str] = []

    def progress(phase: str, sample: Sample | None, measured: Measured, received: int) -> None:
        if phase not in seen:
            seen.append(phase)

    scenario = Scenario(attackers=10, honest=1, rate=32.0, baseline=1.0, seconds=4.0, quota=2 * MIB, limit=512 * MIB)

    async def run() -> Measured:
        return await run_once(scenario, protected=True, progress=progress)

    measured = anyio.run(run)

    assert measured.died_after is None
    assert measured.wrong == 0
    assert measured.rounds > 0
    assert measured.victims > 0
    assert measured.echo_attack
    assert 0 < measured.peak_group < 512 * MIB
    assert seen[1:] == ["undisturbed", "under attack", "afterwards"]


async def test_honest_clients_of_each_kind_count_as_cut_when_they_lose_their_connection() -> None:
    measured = Measured(protected=True)

    async def hang_up(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    clients = Clients(Scenario(honest=2, topics=3, rate=100.0), listener.extra(SocketAttribute.local_port), measured)
    with anyio.fail_after(20):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            tasks.start_soon(clients.run)
            while measured.honest_cut < 2 + 3 + 4:  # subscribers, publishers, echo
                await anyio.lowlevel.checkpoint()
            clients.stop()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    assert measured.honest_cut == 9


def run(scenario: Scenario, *, protected: bool) -> Measured:
    async def once() -> Measured:
        return await run_once(scenario, protected=protected, progress=lambda *_: None)

    return anyio.run(once)


@pytest.mark.parametrize("kind", ["chosen", "address space"])
def test_without_a_quota_it_dies_and_every_honest_client_is_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "address space":
        monkeypatch.setattr(demo_run, "choose_confinement", AddressSpace)
    monkeypatch.setattr(demo_run, "_EVERY", 0.005)
    scenario = Scenario(attackers=10, honest=2, topics=3, frame=256 * 1024, rate=100.0, patience=60.0)

    measured = run(scenario, protected=False)

    assert measured.died_after is not None
    assert measured.honest_cut == 2 + 3 + 4
    assert measured.samples[-1].when - measured.attack_began <= measured.died_after, "nobody looks at a dead one"
    assert measured.confinement
    assert measured.end.startswith("killed after" if measured.exit_code == -9 else "died after")


def test_attackers_that_end_by_themselves_make_the_run_void() -> None:
    """Else a relay that nobody attacks lives, and that is claimed for its quota."""
    with pytest.raises(RunFailed, match=r"^the attackers ended by themselves \(code 2\): .*invalid choice: 'peace'"):
        run(Scenario(name="peace", honest=1, topics=1, baseline=0.1, limit=512 * MIB), protected=True)


SERVES_ONE = """\
import socket
listener = socket.create_server(("127.0.0.1", 0))
print('{"port": %d}' % listener.getsockname()[1], flush=True)
listener.accept()
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise OSError('out of luck')", r"did not start \(code 1\): OSError: out of luck"),
        ("import os; os.kill(os.getpid(), 9)", r"did not start \(code -9\): it said nothing"),
        (
            SERVES_ONE + "raise ExceptionGroup('tasks', [RuntimeError('tripped')])",
            r"ended by itself \(code 1\): RuntimeError: tripped",
        ),
        (SERVES_ONE + "raise MemoryError", "was out of memory before the attack"),
    ],
    ids=["not started", "killed at once", "tripped", "no memory before the attack"],
)
def test_a_relay_that_ends_for_another_reason_makes_the_run_void(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a control that does not even start has died, as was claimed."""
    script = tmp_path / "relay.py"
    script.write_text(source)
    monkeypatch.setattr(demo_run, "_relay", lambda: script)

    with pytest.raises(RunFailed, match=f"^the relay {words}"):
        run(Scenario(honest=1, topics=1), protected=False)


async def test_what_comes_late_is_not_on_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_clients, "_IN_TIME", -1.0)
    measured = Measured(protected=True)
    with anyio.fail_after(20):
        async with serving(memquota.Tracker("64MiB")) as port:
            clients = Clients(Scenario(honest=1, topics=1, rate=100.0), port, measured)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(clients.run)
                while clients.received < 3:
                    await anyio.lowlevel.checkpoint()
                clients.stop()

    assert measured.delivered == 0
    assert measured.scheduled >= 3
    assert measured.wrong == 0


def test_attackers_end_whatever_became_of_who_started_them() -> None:
    command = [sys.executable, "-m", "memquota.demo.attackers", "--port", "1", "--count", "1", "--seconds", "1"]

    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGALRM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demonstration_and_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "memquota.cli", "demo"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            while not any(b"memquota.demo.attackers" in line for line in children(demo.pid).values()):
                assert demo.poll() is None
                time.sleep(0.01)
            started = children(demo.pid)
            demo.send_signal(number)
            told, errors = demo.communicate(timeout=60)
        finally:
            demo.kill()

    assert len(started) == 2, "the relay and the attackers"
    assert (demo.returncode, errors) == (1, "")
    assert told.endswith("\nInterrupted.\n")
    assert [process for process in started if Path(f"/proc/{process}").exists()] == []
    assert list(Path("/sys/fs/cgroup").glob(f"**/memquota-demo-{demo.pid}-*")) == []


def children(process: int) -> dict[int, bytes]:
    """The processes that one started, and their command lines."""
    found = {}
    for number in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        try:
            found[int(number)] = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
    return found
