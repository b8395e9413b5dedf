"""What runs on a gateway of the lab: small servers that a probe can judge by.

Run as ``python -m halbctl.lab.servers NAME``. TCP and UDP :data:`ECHO` give
back what they get, TCP :data:`BANNER` says the gateway's name and closes, TCP
:data:`PUSH` sends :data:`PUSH_MESSAGE` each 100 ms and expects nothing.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from typing import cast

ECHO = 7001
BANNER = 7002
PUSH = 7003
_IP_PKTINFO = 8
PUSH_INTERVAL = 0.1
"""Seconds between two pushed messages."""
PUSH_MESSAGE = b"." * 16


class Echo(asyncio.Protocol):
    """Gives back every byte."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class DatagramEcho:
    """Gives back every datagram with the gateway's name before it: ``gw1 DATA``.

    From the address that was asked, which need not be the one that the host
    would choose: with ``dsr`` a gateway has the VIP as well.
    """

    def __init__(self, name: str, sock: socket.socket) -> None:
        self._prefix = f"{name} ".encode()
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._answer)

    def _answer(self) -> None:
        data, notes, _, client = self._socket.recvmsg(65536, 128)
        asked = []
        for level, kind, note in notes:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                asked = [(level, kind, note[:16] + bytes(4))]
            elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                asked = [(level, kind, bytes(4) + note[8:12] + bytes(4))]
        with suppress(OSError):
            self._socket.sendmsg([self._prefix + data], asked, 0, client)


class Banner(asyncio.Protocol):
    """Says the gateway's name on one line and closes."""

    def __init__(self, name: str) -> None:
        self._line = f"{name}\n".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.write(self._line)
        stream.close()


class Push(asyncio.Protocol):
    """Sends a message at a steady pace until the client is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._push()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def _push(self) -> None:
        self._transport.write(PUSH_MESSAGE)
        self._due += PUSH_INTERVAL
        self._timer = self._loop.call_at(self._due, self._push)


def _datagram_socket() -> socket.socket:
    """One socket for both families: two would be refused as a second bind."""
    both = socket.has_dualstack_ipv6()
    sock = socket.socket(socket.AF_INET6 if both else socket.AF_INET, socket.SOCK_DGRAM)
    if both:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    sock.bind(("::" if both else "", ECHO))
    sock.setblocking(False)
    return sock


async def serve(name: str) -> None:
    """Serve on all addresses of this host until cancelled; print ``ready`` when listening."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(Echo, None, ECHO, backlog=1024),
        await loop.create_server(lambda: Banner(name), None, BANNER, backlog=1024),
        await loop.create_server(Push, None, PUSH, backlog=1024),
    ]
    DatagramEcho(name, _datagram_socket())
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
