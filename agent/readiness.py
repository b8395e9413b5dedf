"""Tells the service manager that the agent answers; :manpage:`sd_notify(3)`, without its library.

So ``systemctl start`` returns when ``halbctl`` can be used, and fails where it cannot.
"""

from __future__ import annotations

import logging
import os
import socket

VARIABLE = "NOTIFY_SOCKET"
READY = b"READY=1"

_log = logging.getLogger("halb.agent")


def tell_ready() -> None:
    """Tell whoever waits for it, once; nothing where nobody does.

    A name that begins with ``@`` is of the abstract namespace. Children do not get to know of it.
    """
    where = os.environ.pop(VARIABLE, "")
    if not where:
        return
    address = where.replace("@", "\0", 1) if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(READY, address)
    except OSError as error:
        _log.warning("the service manager is not told that the agent is up: %s", error)
