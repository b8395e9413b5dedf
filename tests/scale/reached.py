"""``python -m tests.scale.reached SECONDS PORT VIP...``: the longest time without each of them.

Connects to each VIP every 30 ms; prints milliseconds by VIP as JSON, on one line. A VIP
without a primary does not answer at all, so an attempt is given up after 100 ms.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from contextlib import suppress

EACH_S, GIVEN_UP_S = 0.03, 0.1
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, which leaves no state behind."""


async def _connects(vip: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(loop.sock_connect(sock, (vip, port)), GIVEN_UP_S)
            return True
    return False


async def _longest_without(vip: str, port: int, until: float) -> float:
    """Seconds without a connection to ``vip`` before the loop's clock says ``until``."""
    loop = asyncio.get_running_loop()
    longest, last = 0.0, loop.time()
    while (now := loop.time()) < until:
        if await _connects(vip, port):
            longest, last = max(longest, loop.time() - last), loop.time()
        await asyncio.sleep(max(0.0, now + EACH_S - loop.time()))
    return max(longest, loop.time() - last)


async def _watch(seconds: float, port: int, vips: list[str]) -> dict[str, float]:
    until = asyncio.get_running_loop().time() + seconds
    found = await asyncio.gather(*(_longest_without(vip, port, until) for vip in vips))
    return {vip: round(1000 * each) for vip, each in zip(vips, found, strict=True)}


if __name__ == "__main__":
    _, _seconds, _port, *_vips = sys.argv
    print(json.dumps(asyncio.run(_watch(float(_seconds), int(_port), _vips))))
