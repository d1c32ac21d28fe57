"""`examples/http_503.py` over real sockets, in a process whose memory is really limited."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memquota.demo.confinement import Confinement, choose_confinement

MIB = 1024**2
WATCHDOG = 60.0
PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "http_503.py"


class Server:
    """The service with 24 MiB of quota in 128 MiB of memory."""

    def __init__(self, confinement: Confinement) -> None:
        command = [sys.executable, str(PROGRAM), "--quota", "24MiB", "--port", "0"]
        self.process = subprocess.Popen(confinement.command(command), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[-1])


@pytest.fixture
def server() -> Iterator[Server]:
    confinement = choose_confinement(128 * MIB)
    server = Server(confinement)
    try:
        yield server
        assert server.process.poll() is None, "it was killed"
    finally:
        server.process.terminate()
        server.process.communicate(timeout=WATCHDOG)
        confinement.remove()


class Client:
    """A client that says what it wants to send before it sends it."""

    def __init__(self, server: Server, size: int, *, declared: str | None = None) -> None:
        self.body = b"x" * size
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=WATCHDOG)
        length = f"Content-Length: {size}\r\n" if declared is None else declared
        self.socket.sendall(f"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n{length}\r\n".encode())
        self.status, self.headers = self._read_head()

    def _read_head(self) -> tuple[int, dict[str, str]]:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self.socket.recv(1)
            assert piece, head
            head += piece
        first, *lines = head.decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        return int(first.split()[1]), headers

    def finish(self, already: int = 0) -> tuple[int, str]:
        """Send the rest of the body; the status and the text of the answer."""
        self.socket.sendall(self.body[already:])
        status, headers = self._read_head()
        text = self.socket.recv(int(headers["content-length"]), socket.MSG_WAITALL)
        self.socket.close()
        return status, text.decode().strip()


def test_who_has_no_room_is_told_to_come_again_and_nobody_is_killed(server: Server) -> None:
    # Each body is counted twice: three of 4 MiB fill 24 MiB.
    inside = [Client(server, 4 * MIB) for _ in range(3)]
    for client in inside:
        assert client.status == 100
        client.socket.sendall(client.body[: 3 * MIB])  # and takes its time with the rest

    turned_away = [Client(server, 4 * MIB) for _ in range(100)]  # 400 MiB, if they were let in

    assert {client.status for client in turned_away} == {503}
    assert {client.headers["retry-after"] for client in turned_away} == {"1"}
    for client in turned_away:
        client.socket.close()

    expected = hashlib.sha256(b"x" * 4 * MIB).hexdigest()
    assert inside[0].finish(3 * MIB) == (200, expected)
    again = Client(server, 4 * MIB)  # now there is room for one
    assert again.status == 100
    assert again.finish() == (200, expected)
    for client in inside[1:]:
        assert client.finish(3 * MIB) == (200, expected)


def test_who_hangs_up_gives_the_room_back(server: Server) -> None:
    for _ in range(20):
        clients = [Client(server, 4 * MIB) for _ in range(3)]
        assert [client.status for client in clients] == [100, 100, 100]
        for client in clients:
            client.socket.close()
        while (probe := Client(server, 12 * MIB)).status == 503:
            probe.socket.close()  # until the server has seen it
        probe.socket.close()
        while (probe := Client(server, 12 * MIB)).status == 503:
            probe.socket.close()
        assert probe.finish() == (200, hashlib.sha256(b"x" * 12 * MIB).hexdigest())


def test_nothing_at_all_is_a_body_too(server: Server) -> None:
    assert Client(server, 0).finish() == (200, hashlib.sha256(b"").hexdigest())


def test_ctrl_c_ends_it_without_a_complaint() -> None:
    # A shell starts what runs in its background without Ctrl-C.
    start = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(PROGRAM), "--quota", "24MiB", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        while True:
            with socket.create_connection(("127.0.0.1", port), timeout=WATCHDOG) as client:
                client.sendall(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx")
                if client.recv(12) == b"HTTP/1.1 200":  # so it handles signals by now
                    break
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=WATCHDOG)
    finally:
        process.kill()

    assert (process.returncode, complaints) == (0, "")


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ("Content-Length: 13000000\r\n", 413),
        ("Content-Length: 999999999999999999\r\n", 413),
        ("", 411),
    ],
)
def test_what_can_never_be_is_refused_at_once(server: Server, declared: str, status: int) -> None:
    client = Client(server, 0, declared=declared)

    assert client.status == status
    client.socket.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--quota", "48M"], "limit '48M' is ambiguous"), (["--port", "99999"], "port must be 0-65535")],
)
def test_what_it_cannot_serve_with_it_says_in_a_line(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments], capture_output=True, text=True, timeout=WATCHDOG, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
