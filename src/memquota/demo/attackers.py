"""The attackers, in a process of their own: `python -m memquota.demo.attackers --port 7000 --count 100`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time

import anyio

from memquota.demo.clients import GONE, connect, send_frame

__all__ = ["main"]

#: How long one waits before it connects again after it was cut off, in seconds.
_PAUSE = 1.0
#: Hosts that a flood comes from.
_HOSTS = 12
_ESTABLISHED = 1  # in the first byte of the kernel's struct tcp_info


def never_read(port: int, count: int, topics: int) -> None:
    """Subscribe with many connections, never read any, and come back when cut off."""
    connections: list[socket.socket | None] = [None] * count
    began = time.monotonic()
    again = [began + _PAUSE * index / count for index in range(count)]  # no two come at the same moment
    while True:
        now = time.monotonic()
        for index, connection in enumerate(connections):
            if connection is None:
                if now >= again[index]:
                    connections[index] = _subscribe(port, index, index % topics)
                    again[index] = now + _PAUSE
            elif connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED:
                connection.close()
                connections[index] = None
                again[index] = now + _PAUSE
        time.sleep(0.05)


def _subscribe(port: int, index: int, topic: int) -> socket.socket | None:
    connection = socket.socket()
    first = f"SUB news-{topic}".encode()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((f"127.0.2.{1 + index % 250}", 0))
        connection.settimeout(2)
        connection.connect(("127.0.0.1", port))
        connection.sendall(len(first).to_bytes(4, "big") + first)
    except OSError:
        connection.close()
        return None
    return connection


async def flood(port: int, count: int) -> None:
    """Push fresh data as fast as the relay takes it, to subscribers of one's own who read it slowly."""
    async with anyio.create_task_group() as tasks:
        for index in range(count):
            host = f"127.0.3.{1 + index % _HOSTS}"
            tasks.start_soon(_push, port, host, f"flood-{index}")
            tasks.start_soon(_sip, port, host, f"flood-{index}")


async def _push(port: int, host: str, topic: str) -> None:
    payload = bytes(32 * 1024)
    while True:
        try:
            async with await connect(port, host, f"PUB {topic}") as stream:
                while True:
                    await send_frame(stream, payload)
        except GONE:
            await anyio.sleep(_PAUSE / 10)


async def _sip(port: int, host: str, topic: str) -> None:
    while True:
        try:
            async with await connect(port, host, f"SUB {topic}") as stream:
                while True:
                    await stream.receive(64 * 1024)
                    await anyio.sleep(0.05)
        except GONE:
            await anyio.sleep(_PAUSE / 10)


def main(arguments: list[str]) -> None:
    """Attack until killed."""
    parser = argparse.ArgumentParser(description="Attack the relay.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--topics", type=int, default=1, help="over which those who never read are spread")
    parser.add_argument("--scenario", choices=["slow-readers", "flood"], default="slow-readers")
    parser.add_argument("--seconds", type=int, default=0, help="how long at most; 0 is for ever")
    options = parser.parse_args(arguments)
    signal.alarm(options.seconds)  # it ends, whatever became of who started it
    if options.scenario == "flood":
        anyio.run(flood, options.port, options.count)
    else:
        never_read(options.port, options.count, options.topics)


if __name__ == "__main__":
    main(sys.argv[1:])
