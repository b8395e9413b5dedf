"""Instrument: many flows of datagrams at once, without a socket for each.

Run as ``python -m halbctl.lab.crowd HOST PORT FLOWS``. Sends one datagram of each flow, and
another one when the kernel takes a flow for lasting; each again until it is answered. Ends
then. The flows differ in their source ports, on which nobody listens.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

FIRST_PORT = 2000
MOST = 60_000
"""Flows of one host."""
_HEADER = struct.Struct("!HHHH")
_IP_HEADER = 20
_AT_ONCE = 100
"""Flows that wait for an answer: as many as a server's buffer takes."""
_ANSWER_S = 0.2
_LASTING_S = 2.5
"""The kernel takes a flow for lasting if it speaks both ways after two seconds."""
_LIMIT_S = 60.0


def main(host: str, port: int, flows: int) -> None:
    """Open the flows."""
    end = time.monotonic() + _LIMIT_S
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        sock.connect((host, 0))
        sock.setblocking(False)
        for turn in range(2):
            if turn:
                time.sleep(_LASTING_S)
            for first in range(FIRST_PORT, FIRST_PORT + flows, _AT_ONCE):
                wanted = set(range(first, min(first + _AT_ONCE, FIRST_PORT + flows)))
                while wanted:
                    if time.monotonic() > end:
                        sys.exit(f"{len(wanted)} flows from port {first} on are not answered")
                    _ask(sock, port, wanted)


def _ask(sock: socket.socket, port: int, wanted: set[int]) -> None:
    """Send a datagram from each port; those that are answered are wanted no more."""
    for source in wanted:
        sock.send(_HEADER.pack(source, port, _HEADER.size + 1, 0) + b"?")
    deadline = time.monotonic() + _ANSWER_S
    while wanted and (left := deadline - time.monotonic()) > 0:
        select.select([sock], [], [], left)
        wanted.difference_update(_answered(sock, port))


def _answered(sock: socket.socket, port: int) -> Iterator[int]:
    """Ports that answers have come to."""
    while True:
        try:
            packet = sock.recv(256)
        except BlockingIOError:
            return
        source, to, *_ = _HEADER.unpack_from(packet, _IP_HEADER)
        if source == port:
            yield to


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
