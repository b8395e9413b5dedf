"""Real servers and patience for tests of what connects to servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import TypeVar

T = TypeVar("T")


def run(test: Coroutine[object, object, T]) -> T:
    return asyncio.run(asyncio.wait_for(test, 30))


async def until(condition: Callable[[], object]) -> None:
    """Give the loop its turns until ``condition`` holds; ``run`` is the deadline."""
    while not condition():  # noqa: ASYNC110 - a condition of a real socket has no event
        await asyncio.sleep(0.002)


def never(_: object) -> None:
    raise AssertionError("called although it was cancelled")


def listen(address: str = "127.0.0.1", port: int = 0, backlog: int = 16) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(backlog)
    return server


def port_of(sock: socket.socket) -> int:
    port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


def refusing_port() -> int:
    with listen() as server:
        return port_of(server)


def hang(server: socket.socket) -> list[socket.socket]:
    """Fill the backlog of ``server``, so that further connections get no answer."""
    crowd = []
    for _ in range(3):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect_ex(server.getsockname())
        crowd.append(sock)
    return crowd
