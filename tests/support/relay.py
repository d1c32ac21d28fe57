"""The example relay, and clients of it that do one thing each."""

import importlib.util
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

import memquota


def load_relay() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "relay.py"
    spec = importlib.util.spec_from_file_location("relay_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


relay = load_relay()


@asynccontextmanager
async def serving(tracker: memquota.Tracker, served: Any = None) -> AsyncIterator[int]:
    with relay.listen(0) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon((served or relay.Relay(tracker)).serve, listener)
            yield listener.getsockname()[1]
            tasks.cancel_scope.cancel()


async def connect(port: int, first: bytes) -> SocketStream:
    stream = await anyio.connect_tcp("127.0.0.1", port)
    await stream.send(pack(first))
    return stream


def a_sleeper(port: int, first: bytes) -> socket.socket:
    """A client that never reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(pack(first))
    return client


def leave(client: socket.socket, how: str) -> None:
    if how == "says no more":
        client.shutdown(socket.SHUT_WR)
    elif how == "speaks":
        client.sendall(b"!")
    else:
        if how == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def pack(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


async def receive_frame(buffered: BufferedByteReceiveStream) -> bytes:
    size = int.from_bytes(await buffered.receive_exactly(4), "big")
    return await buffered.receive_exactly(size)


async def publish(port: int, topic: bytes, *frames: bytes) -> None:
    """Publish, and wait until the relay has done it."""
    async with await connect(port, b"PUB " + topic) as publisher:
        for frame in frames:
            await publisher.send(pack(frame))
        await publisher.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await publisher.receive()


async def until_subscribed(tracker: memquota.Tracker, accounts: int) -> None:
    while tracker.statistics().accounts < accounts:
        await anyio.lowlevel.checkpoint()
