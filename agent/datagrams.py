"""Checks of type ``udp``: a datagram out, and what comes back.

UDP has no handshake. With a ``reply`` the gateway must say it. Without one,
silence is good, and only a refusal is bad: an ICMP message, or no answer on the
segment to the question who has the gateway's address.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

from agent.conversations import NO_REPLY, Conversation, Unhealthy
from agent.probes import GOOD, Answer, Verdict
from agent.segment import is_unresolved
from protocol.health import octets

MAX_HEARD = 64
"""Datagrams that are looked at; a flood is not."""
_BUFFER = 64 * 1024


async def udp(about: Conversation) -> Answer:
    """Good with the wanted reply; if none is wanted, also without any within the timeout."""
    wanted = octets(about.check.reply)
    version = ip_address(about.address).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((about.address, about.port))
        sock.send(octets(about.check.payload))
        about.lacks = NO_REPLY
        if not wanted:
            about.late = lambda: _silence_of(about.address)
        await _hear(about, sock, wanted)
    return GOOD


def _silence_of(address: str) -> Answer:
    """What silence says where no reply is wanted."""
    if is_unresolved(address):
        return Answer(Verdict.BAD, "host unreachable (no ARP or ND answer)")
    return GOOD


async def _hear(about: Conversation, sock: socket.socket, wanted: bytes) -> None:
    """Return with the wanted reply; an ICMP message comes as an OSError."""
    loop = asyncio.get_running_loop()
    for _ in range(MAX_HEARD):
        if wanted in await loop.sock_recv(sock, _BUFFER):
            return
        about.lacks = "answers, but not as wanted"
    raise Unhealthy(about.lacks)
