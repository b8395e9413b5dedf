"""Errors of ICMP about a flow that nobody remembers reach the gateway that has it alone."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from agent.neighbour import checksum
from agent.ruleset import Desired
from halbctl.lab.servers import ECHO
from protocol.objects import Former
from tests.kernel.modes import CLIENT, GATEWAYS, NAMES, Farm, built_farm, serves
from tests.kernel.namespaces import UID, VIPS, connect, wait_until

pytestmark = pytest.mark.kernel

MTU = 1280
PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with built_farm() as farm:
        yield farm


def too_large(vip: str, to: tuple[str, int], protocol: str) -> None:
    """Say that a packet from the listener to this client was too large."""
    number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
    ends = ip_address(vip).packed + ip_address(to[0]).packed
    ports = struct.pack("!HHI", ECHO, to[1], 0)
    if ":" in vip:
        quoted = struct.pack("!IHBB", 6 << 28, 1480, number, 64) + ends + ports
        error, kind = struct.pack("!BBHI", 2, 0, 0, MTU) + quoted, socket.IPPROTO_ICMPV6
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 1500, 1, 0x4000, 64, number, 0)
        error = struct.pack("!BBHHH", 3, 4, 0, 0, MTU) + head + ends + ports
        error = error[:2] + struct.pack("!H", checksum(error)) + error[4:]
        kind = socket.IPPROTO_ICMP
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, kind) as sock:
        sock.sendto(error, (vip, 0))


def errors(farm: Farm, gateway: str, vip: str) -> int:
    """How many such errors a gateway has received."""
    if ":" in vip:
        lines = farm.network.run(gateway, "cat", "/proc/net/snmp6").splitlines()
        return next(int(line.split()[1]) for line in lines if "Icmp6InPktTooBigs" in line)
    lines = farm.network.run(gateway, "cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(values[names.index("InDestUnreachs")])


def opened(vip: str, protocol: str) -> socket.socket:
    if protocol == "tcp":
        return connect(vip, ECHO, 1.0)
    sock = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1.0)
    sock.connect((vip, ECHO))
    return sock


def owner(farm: Farm, sock: socket.socket, protocol: str) -> str:
    """The gateway that has a flow."""
    sock.sendall(b"?")
    answer = sock.recv(100)
    if protocol == "udp":
        return answer.decode().split()[0]
    port = f":{sock.getsockname()[1]}"
    found = {gw: farm.network.run(gw, "ss", "-Htn", "state", "established") for gw in NAMES}
    (there,) = (gw for gw, text in found.items() if any(w.endswith(port) for w in text.split()))
    return there


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("moved", [False, True], ids=["at rest", "while slots move"])
@pytest.mark.parametrize("mode", ["dsr", "routed"])
def test_an_error_reaches_the_gateway_of_the_flow(
    farm: Farm, mode: str, moved: bool, protocol: str, vip: str
) -> None:
    farm.use(mode)
    if moved:
        came = (
            replace(g, former=Former(0, 9)) if g.name.startswith("gw2") else g for g in GATEWAYS
        )
        grown = replace(serves(mode), gateways=tuple(came))
        farm.a.reconcile(Desired((grown,), {UID: farm.leased}))
    seen = set()
    for _ in range(12):
        with closing(farm.client.call(opened, vip, protocol)) as sock:
            there = owner(farm, sock, protocol)
            before = {gw: errors(farm, gw, vip) for gw in NAMES}
            to = (CLIENT[6 if ":" in vip else 4], sock.getsockname()[1])
            farm.client.call(too_large, vip, to, protocol)
            wait_until(lambda: errors(farm, there, vip) > before[there], "it is told")  # noqa: B023
            assert {gw for gw in NAMES if errors(farm, gw, vip) > before[gw]} == {there}
            seen.add(there)
    assert seen == set(NAMES)
