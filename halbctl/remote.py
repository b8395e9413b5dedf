"""The way to an agent on the network: encrypted, with an operator's key.

A connection is pinned to the public key that the key file has for a device, so
nobody else can answer in its place; the device lets in whom the Site's
configuration names as an operator.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic
from typing import Any

import zmq

from halbctl import keyfile
from halbctl.client import Context, Line
from halbctl.keyfile import KeyFile
from halbctl.where import Remote
from protocol.addresses import Address, split_endpoint
from protocol.control import MAX_REPLY, OPERATORS
from protocol.errors import HalbError, InvalidInput, Refused, Unreachable

CONNECT_S = 1.5
"""Seconds that a device may take to accept a connection: TCP repeats what is lost after 1 s."""
HANDSHAKE_S = 2.0
"""Seconds that it may take to do so and agree on keys while others are left to be tried."""
REFUSALS, AT_ONCE_S = 3, 1.0
"""Handshakes that a device ends at once before it is certain that it has another key. One
that it ends later is one that its agent had no time for."""
_REFRESH = "If the Site's devices changed, `halbctl operator refresh` over one that is known helps."
_EVENTS = (
    zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


@dataclass(frozen=True)
class Target:
    """One address of one device."""

    device: str
    public_key: str
    ip: Address
    port: int
    """Where operators connect to."""

    def __str__(self) -> str:
        host = f"[{self.ip}]" if self.ip.version == 6 else self.ip
        return f"{self.device} ({host}:{self.port})"


def new_keys() -> tuple[str, str]:
    """A new pair, public and secret, in Z85."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def connect(context: Context, where: Remote, timeout: float) -> Line:
    """A line to the device that ``where`` names, or to the first that answers."""
    key = keyfile.read(where.key)
    deadline = monotonic() + timeout
    failed: list[HalbError] = []
    known = targets(key, where.agent, where.key)
    for number, target in enumerate(known, 1):
        patience = deadline - monotonic()
        if failed and patience <= 0:
            break
        if number < len(known):
            share = max(timeout / len(known), min(HANDSHAKE_S, patience / 2))
            patience = min(patience, share)
        try:
            return _dial(context, key, target, where.key, patience)
        except HalbError as error:
            failed.append(error)
    raise _nobody(key, failed)


def targets(key: KeyFile, agent: str, path: str) -> list[Target]:
    """The addresses of ``agent`` in the key file at ``path``; of all devices where it is empty."""
    every = [
        Target(device.name, device.public_key, ip, port + OPERATORS)
        for device in key.devices
        for ip, port in map(split_endpoint, device.addresses)
    ]
    if not agent:
        return every
    host, port = _parted(agent)
    found = [t for t in every if host == t.device] or list(_at(every, host))
    if port is not None:
        found = [t for t in found if port in (t.port, t.port - OPERATORS)]
    if not found:
        known = ", ".join(map(str, every[:8]))
        raise InvalidInput(
            f"{agent} is no device of Site {key.site} in key file {path}; it has {known}", _REFRESH
        )
    if len({t.device for t in found}) > 1:
        raise InvalidInput(
            f"{agent} is more than one device: {', '.join(map(str, found))}",
            "Name one of them, or its port too.",
        )
    return found


def _parted(agent: str) -> tuple[str, int | None]:
    """Host and port of ``NAME``, ``HOST``, ``HOST:PORT``, ``IPV6`` or ``[IPV6]:PORT``."""
    host, colon, port = agent.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return agent.strip("[]"), None
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise InvalidInput(f"--agent {agent!r} has no port after its colon", "Write HOST:7483.")
    return host.strip("[]"), int(port)


def _at(every: list[Target], host: str) -> Iterator[Target]:
    try:
        wanted = {ip_address(host)}
    except ValueError:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        wanted = {ip_address(str(address[0]).partition("%")[0]) for *_, address in found}
    yield from (target for target in every if target.ip in wanted)


def _dial(context: Context, key: KeyFile, target: Target, path: str, patience: float) -> Line:
    """A line to ``target``, which has let us in."""
    dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    monitor = dealer.get_monitor_socket(_EVENTS)
    options: dict[int, Any] = {
        zmq.CURVE_SERVERKEY: target.public_key.encode(),
        zmq.CURVE_PUBLICKEY: key.public_key.encode(),
        zmq.CURVE_SECRETKEY: key.secret_key.encode(),
        # Under it the agent finds us again if the connection breaks.
        zmq.ROUTING_ID: b"halbctl-" + os.urandom(8),
        zmq.MAXMSGSIZE: MAX_REPLY,
        # Before the time for all of it is up, or who is not there would seem to hang.
        zmq.CONNECT_TIMEOUT: max(1, int(min(CONNECT_S, 0.8 * patience) * 1000)),
        zmq.IPV6: 1,
        zmq.LINGER: 0,
    }
    for option, value in options.items():
        dealer.setsockopt(option, value)
    host = f"[{target.ip}]" if target.ip.version == 6 else target.ip
    dealer.connect(f"tcp://{host}:{target.port}")
    try:
        _shake_hands(monitor, key, target, path, patience)
    except HalbError:
        dealer.close()
        raise

    def why_silent(_: float) -> None:
        while monitor.poll(0):
            if _next(monitor)[0] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise _not_known(key, target)

    return Line(dealer, str(target), why_silent, f"device {target}")


def _shake_hands(
    monitor: zmq.Socket[bytes], key: KeyFile, target: Target, path: str, patience: float
) -> None:
    began = latest = monotonic()
    refusals = 0
    while (left := began + patience - monotonic()) > 0:
        if not monitor.poll(int(left * 1000) + 1):
            continue
        event, value = _next(monitor)
        now = monotonic()
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise _not_known(key, target)
        if event == zmq.EVENT_CLOSED:
            raise _unreachable(target, now - began, patience)
        refusals += value in (errno.EPIPE, errno.ECONNRESET) and now - latest < AT_ONCE_S
        latest = now
        if refusals >= REFUSALS:
            raise Refused(
                f"device {target} does not have the key that {path} names",
                "It was installed anew, or another host has its address:"
                " `halbctl --agent OTHER operator refresh` brings the file up to date.",
            )
    raise Unreachable(f"device {target} accepts connections but does not answer", _OPEN)


def _next(monitor: zmq.Socket[bytes]) -> tuple[int, int]:
    """Number and value of an event, read here: pyzmq's own reader imports asyncio for it."""
    event, value = struct.unpack("=hi", monitor.recv_multipart()[0])
    return event, value


_OPEN = "Let this host reach TCP port 7483 (PORT+3) of the Site's devices; see that they run."


def _unreachable(target: Target, waited: float, patience: float) -> Unreachable:
    """Why no connection came about within ``waited`` seconds; ZeroMQ does not say."""
    why, more = "no answer", min(CONNECT_S, patience) / 2
    if waited < more:
        try:
            with socket.create_connection((str(target.ip), target.port), more):
                why = "it has just begun to listen"
        except OSError as error:
            why = error.strerror or str(error)
    return Unreachable(f"device {target}: {why}", _OPEN)


def _not_known(key: KeyFile, target: Target) -> Refused:
    return Refused(
        f"device {target} does not let in operator {key.operator!r} of Site {key.site}",
        "The operator was removed, or the device belongs to another Site now: see"
        " `halbctl operator list` and `halbctl version` on it.",
    )


def _nobody(key: KeyFile, failed: list[HalbError]) -> HalbError:
    """What to report: a device's own reason, if one had any."""
    for error in failed:
        if len(failed) == 1 or not isinstance(error, Unreachable):
            return error
    reasons = "; ".join(error.message for error in failed)
    return Unreachable(f"no device of Site {key.site} can be reached: {reasons}", _OPEN)
