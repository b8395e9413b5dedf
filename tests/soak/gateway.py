"""What a gateway of the soak runs beside the lab's servers: servers that say who they are.

``python -m tests.soak.gateway NAME``: a connection begins with the gateway's name, so that a
client whose connection ends knows whether its gateway had died. Then TCP :data:`NAMED` gives
back what it gets, and TCP :data:`TALKING` speaks by itself.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import cast

from halbctl.lab.servers import Echo, Push

NAMED, TALKING = 7004, 7005
ELSEWHERE = 10
"""Both are served on ports that are higher by this, too."""
SIZE = 16
"""Bytes of each message."""


def signature(name: str) -> bytes:
    """The first message of a connection."""
    return name.encode().ljust(SIZE)


async def serve(name: str) -> None:
    """Serve until cancelled; print ``ready`` when listening."""

    def greeting(protocol: type[Echo | Push]) -> asyncio.Protocol:
        made = protocol()
        begin = made.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            cast(asyncio.Transport, transport).write(signature(name))
            begin(transport)

        made.connection_made = connection_made  # type: ignore[method-assign]
        return made

    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(partial(greeting, kind), None, port + more, backlog=1024)
        for kind, port in ((Echo, NAMED), (Push, TALKING))
        for more in (0, ELSEWHERE)
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
