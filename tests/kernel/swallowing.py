"""A gateway that swallows what opens a flow, and clients that wait for its answer."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from agent.conntrack import unanswered
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO
from tests.kernel.farm import version

PATIENCE_S = 60.0
"""A client sends a lost SYN again after 1 and 3 s, and again before 7, 15 and 31 s are over."""
LOST, ANSWERED = b"??", b"?"
"""Datagrams that such a gateway swallows, and that it answers."""
_TABLE = """table inet swallow {
    chain input {
        type filter hook input priority filter;
        tcp flags & (syn | ack) == syn counter drop
        udp length 10 counter drop
    }
}"""


@contextmanager
def swallowing(network: Network, gateway: str) -> Iterator[None]:
    """Meanwhile the gateway drops each SYN, and each datagram that is :data:`LOST`."""
    network.run(gateway, "nft", "-f", "-", text=_TABLE)
    try:
        yield
    finally:
        network.run(gateway, "nft", "delete", "table", "inet", "swallow")


def swallowed(network: Network, gateway: str) -> int:
    """How many packets it has dropped so far."""
    listing = network.run(gateway, "nft", "list", "table", "inet", "swallow")
    return sum(map(int, re.findall(r"counter packets (\d+)", listing)))


def knock(vip: str, port: int) -> socket.socket:
    """A connection that is being opened, from inside the calling thread's namespace."""
    sock = socket.socket(_family(vip), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.connect_ex((vip, port))
    return sock


def wait_open(sock: socket.socket) -> None:
    """Wait until that is done: the client's kernel sends the SYN again by itself."""
    _, ready, _ = select.select([], [sock], [], PATIENCE_S)
    assert ready, "nobody has answered"
    assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    sock.settimeout(PATIENCE_S)


def datagrams(vip: str) -> socket.socket:
    """A flow of UDP, without a datagram so far."""
    sock = socket.socket(_family(vip), socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_S)
    sock.connect((vip, ECHO))
    return sock


def answer(sock: socket.socket, datagram: bytes) -> str:
    """Name of the gateway that answers a datagram."""
    sock.send(datagram)
    return sock.recv(100).decode().split()[0]


def waiting(vip: str, gateway: str) -> int:
    """Flows to a VIP that this gateway has not answered, by the calling thread's kernel."""
    flows = unanswered(version(vip), {ip_address(vip).packed})
    return sum(flow.gateway == ip_address(gateway).packed for flow in flows)


def _family(vip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if version(vip) == 6 else socket.AF_INET
