"""The example relay as a program."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.relay import a_sleeper, pack, relay


@contextmanager
def started(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(relay.__file__), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_the_relay_quietly(backend: str) -> None:
    with started("--backend", backend) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        clients = [a_sleeper(port, verb) for verb in (b"SUB news", b"PUB news", b"ECHO", b"ECHO")]
        clients[-1].sendall(pack(b"hello"))
        assert clients[-1].recv(1) == b"\0"  # the others were there before it
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        for client in clients:
            client.close()

    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--quota", "lots"], "relay: limit 'lots' is not a size"),
        (["--quota", "512M"], "relay: limit '512M' is ambiguous"),
        (["--low-water", "49MiB"], "relay: low water"),
        (["--peer-limit", "lots"], "relay: limit 'lots' is not a size"),
        (["--peer-limit", "0"], "relay: limit"),
        (["--policy", "none"], "relay: no policy 'none'"),
        (["--port", "70000"], "relay: bind(): port must be 0-65535"),
        (["--backend", "curio"], "invalid choice"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_words(options: list[str], words: str) -> None:
    with started(*options) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode
    assert words in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, started("--port", str(taken.getsockname()[1])) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith("relay: [Errno 98]")
    assert "Traceback" not in errors
