"""Instrument: connections that begin at a steady pace, and each of which lasts a while.

Run as ``python -m halbctl.lab.pace HOST PORT RATE LASTS SECONDS``. Each says something, is
answered, and is closed ``LASTS`` seconds later. Prints as JSON how many were answered.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
from contextlib import suppress

_MESSAGE = b"?" * 16
_TIMEOUT_S = 5.0


async def _one(address: tuple[str, int], lasts: float) -> bool:
    """Whether a connection was answered."""
    loop = asyncio.get_running_loop()
    with suppress(OSError), socket.socket() as sock:
        sock.setblocking(False)
        async with asyncio.timeout(_TIMEOUT_S):
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, _MESSAGE)
            answer = await loop.sock_recv(sock, len(_MESSAGE))
        await asyncio.sleep(lasts)
        return bool(answer)
    return False


async def pace(host: str, port: int, rate: float, lasts: float, seconds: float) -> int:
    """Connections that were answered, of those begun in so many seconds, ``rate`` in each."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    begun = []
    for number in range(round(rate * seconds)):
        if (early := began + number / rate - loop.time()) > 0:
            await asyncio.sleep(early)
        if loop.time() - began > seconds:
            break  # of what this machine cannot do in time nothing is made up for
        begun.append(asyncio.create_task(_one((host, port), lasts)))
    return sum(await asyncio.gather(*begun))


if __name__ == "__main__":
    to, *numbers = sys.argv[1:]
    port, rate, lasts, seconds = map(float, numbers)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(asyncio.run(pace(to, int(port), rate, lasts, seconds))))
