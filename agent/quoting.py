"""Errors of ICMP about a flow that nobody remembers: they find its gateway as its packets do. Pure.

Such an error quotes the packet that it is about: one from the VIP to the client. What stands there
as destination is the source of the flow's own packets, so it gives the same slot.

Where packets to the gateway are rewritten, what an error quotes is, too: a gateway knows the flow
by its own address. Of IPv4, where this takes type and code, only that a packet was too large is
passed on then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from agent.checksums import due
from agent.ipversion import KEYWORD
from protocol.objects import Listener

KINDS = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
}
"""Errors of each IP version. In all of them the quoted packet begins after 8 bytes."""
TOO_LARGE = {4: "icmp type destination-unreachable icmp code frag-needed", 6: KINDS[6]}
"""Of these, the ones that can be rewritten."""
NUMBER = {"tcp": 6, "udp": 17}
_PROTOCOL = {4: "@th,64,8 0x45 @th,136,8", 6: "@th,112,8"}
"""Protocol of the quoted packet; of IPv4 only one without options, for ports stand behind them."""
_CLIENT = {4: "@th,192,32", 6: "@th,256,128"}
_CLIENT_PORT = {4: "@th,240,16", 6: "@th,400,16"}
_OURS = {4: "@th,160,32", 6: "@th,128,128"}
_OUR_PORT = {4: "@th,224,16", 6: "@th,384,16"}
QUOTED = {version: f"{_PROTOCOL[version].split()[-1]} . {_OUR_PORT[version]}" for version in KINDS}
"""Protocol and port of the listener that an error to a VIP is about."""
TELLING = {4: f"{KINDS[4]} {_PROTOCOL[4].rpartition(' ')[0]}", 6: KINDS[6]}
"""Errors that tell it."""

_KIND = "@th,0,16"
"""Type and code of an error."""
_FRAG_NEEDED = 0x0304
"""Type and code of the error of IPv4 that a packet was too large."""
_BACK = "icmp type set destination-unreachable icmp code set frag-needed"
COPIED = "quoted"
"""Name of the chain of :func:`copied`."""
OWED = "owed"
"""Map from gateways to what is owed for an address of theirs that stands where there was none."""
DECLARED = f"map {OWED} {{ typeof ip daddr : {_KIND}; }}"


def about(listener: Listener, version: int) -> str:
    """Matches, of errors to a VIP, those about packets that came from the listener."""
    first, last = listener.ports
    ports = f"{first}" if first == last else f"{first}-{last}"
    protocol = f"{_PROTOCOL[version]} {NUMBER[listener.protocol]}"
    return f"{protocol} {_OUR_PORT[version]} {ports}"


def flow_key(listener: Listener, version: int) -> str:
    """What :func:`agent.distribution.flow_key` is of a packet of the flow."""
    client = _CLIENT[version]
    return client if listener.balance == "source-hash" else f"{client} . {_CLIENT_PORT[version]}"


def connection(version: int) -> str:
    """Source, destination and ports of a packet of the flow."""
    client = f"{_CLIENT[version]} . {_CLIENT_PORT[version]}"
    return f"{client} . {KEYWORD[version]} daddr . {_OUR_PORT[version]}"


def rewritten(listener: Listener, version: int, vip: str, to: str) -> str:
    """Statements that make one of :data:`TOO_LARGE` about the VIP one about the gateway ``to``, and
    for it; the rest is :func:`copied`, which nobody but this leads to."""
    port = ""
    old, new = (ports[0].to_bytes(2, "big") for ports in (listener.ports, listener.gateway_ports))
    if old != new:
        port = f"{_OUR_PORT[version]} set {listener.gateway_port} "
    packed = ip_address(vip).packed
    if version == 4:
        owed = f"{_KIND} set {due(_FRAG_NEEDED, packed + old, new):#x} {_BACK} "
        return f"{port}{owed}ip daddr set {to} meta priority set none goto {COPIED}"
    # The checksum is of the destination, too. To be brought up to date for the address
    # that is quoted, it is for this one twice; and for the port.
    last = due(int.from_bytes(packed[-2:], "big"), old, new).to_bytes(2, "big")
    again = f"@nh,192,128 set 0x{(packed[:-2] + last).hex()}"
    twice = f"ip6 daddr set {to} {again} ip6 daddr set {to}"
    return f"{port}{twice} meta priority set none goto {COPIED}"


def copied(version: int) -> str:
    """The rule that writes the gateway into what is quoted, too, from where it stands already.

    One for all listeners: what checksums of IPv4 owe for it is a matter of the gateway alone.
    """
    if version == 4:
        return (
            f"meta nfproto ipv4 {_OURS[4]} set @nh,128,32"
            f" {_KIND} set ip daddr map @{OWED} {_BACK} accept"
        )
    return f"meta nfproto ipv6 {_OURS[6]} set @nh,192,128 accept"


def owed(gateways: Iterable[str]) -> Mapping[str, str]:
    """Contents of :data:`OWED` for those gateways that have an address of IPv4."""
    some = (address for address in map(ip_address, gateways) if address.version == 4)
    return {str(each): f"{due(_FRAG_NEEDED, b'', each.packed):#x}" for each in some}
