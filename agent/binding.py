"""Why an address and port cannot be listened on, in an operator's words."""

from __future__ import annotations

import errno
from ipaddress import ip_address

from agent.addresses import local_addresses
from protocol.errors import HalbError, InvalidInput


def bind_error(address: str, port: int, error: OSError) -> HalbError:
    """What to tell whoever chose them; with the remedy, where one is known."""
    match error.errno:
        case errno.EADDRNOTAVAIL | errno.ENODEV:
            own = sorted(map(ip_address, local_addresses()), key=lambda a: (a.version, a))
            usable = [str(a) for a in own if not a.is_loopback and not a.is_link_local]
            listed = ", ".join(usable[:8]) or "none but loopback"
            return InvalidInput(
                f"address {address} is not on this host",
                f"Its addresses are: {listed}. Start halb-agent with --address IP:PORT of one.",
            )
        case errno.EADDRINUSE:
            return InvalidInput(
                f"port {port} on {address} is in use by another program",
                f"See which with `ss -ltnp sport = :{port}`; stop it, or choose another port "
                "with --address IP:PORT (the three ports after it are used too).",
            )
        case errno.EACCES:
            return InvalidInput(
                f"port {port} on {address} may not be used without CAP_NET_BIND_SERVICE",
                "Choose a port above 1023 with --address IP:PORT.",
            )
    return HalbError(f"cannot listen on {address} port {port}: {error.strerror}")
