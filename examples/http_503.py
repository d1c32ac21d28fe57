"""An HTTP service that says 503 while it is full, instead of being killed.

Whoever posts something gets its SHA-256 back. Bodies are held in memory until they are there in full, which a slow or
spiteful client can take its time with. So each request declares its Content-Length at a gate before a byte of it is
read: where there is no room, it is told at once to come again.

    python examples/http_503.py --quota 48MiB --port 8000
    curl --data-binary @FILE http://127.0.0.1:8000/
"""

from __future__ import annotations

import argparse
import hashlib
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvicorn

import memquota
from memquota import host

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: The body in pieces and the body in one: it is there twice for a moment.
COPIES = 2


class Service:
    """The application, as ASGI wants it."""

    def __init__(self, gate: memquota.AsyncGate) -> None:
        self._gate = gate

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit() or len(length) > 18:
            await answer(send, 411, "say how long it is")
            return
        try:
            permit = self._gate.acquire_nowait(max(1, COPIES * int(length)))
        except memquota.WouldBlock:
            await answer(send, 503, "full", (b"retry-after", b"1"))
        except memquota.QuotaExceeded:
            await answer(send, 413, "more than there ever is room for")
        else:
            async with permit:
                body = await read_body(receive)
                if body is not None:
                    await answer(send, 200, hashlib.sha256(body).hexdigest())


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client has gone."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    """A short answer. Who is turned away is not listened to any more."""
    body = text.encode() + b"\n"
    fixed = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    if status != 200:
        fixed.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quota", default="50%", help="such as 48MiB, 50%% or auto (default: 50%%)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    options = parser.parse_args()
    try:
        tracker = memquota.Tracker(options.quota)
        listener = socket.create_server(("127.0.0.1", options.port))
    except (OSError, OverflowError, memquota.UsageError) as error:
        parser.error(str(error))
    with host.detect() as provider, tracker:
        # Full is when the quota is, or when 90 % of the real limit are used, by whatever it may be.
        service = Service(memquota.AsyncGate(tracker, provider=provider, oversized="refuse"))
        print(f"serving on port {listener.getsockname()[1]}", flush=True)
        with suppress(KeyboardInterrupt):  # Ctrl-C, once everybody has an answer
            uvicorn.Server(uvicorn.Config(service, log_level="warning")).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
