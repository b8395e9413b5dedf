"""Errors of ICMP about a flow that nobody remembers: they find its gateway as its packets do. Pure.

Such an error quotes the packet that it is about: one from the VIP to the client. What stands there
as destination is the source of the flow's own packets, so it gives the same slot.
"""

from __future__ import annotations

from agent.ipversion import KEYWORD
from protocol.objects import Listener

KINDS = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
}
"""Errors of each IP version. In all of them the quoted packet begins after 8 bytes."""
_NUMBER = {"tcp": 6, "udp": 17}
_PROTOCOL = {4: "@th,64,8 0x45 @th,136,8", 6: "@th,112,8"}
"""Protocol of the quoted packet; of IPv4 only one without options, for ports stand behind them."""
_CLIENT = {4: "@th,192,32", 6: "@th,256,128"}
_CLIENT_PORT = {4: "@th,240,16", 6: "@th,400,16"}
_OUR_PORT = {4: "@th,224,16", 6: "@th,384,16"}


def about(listener: Listener, version: int, vips: tuple[str, ...]) -> str:
    """Matches errors about packets that came from the listener."""
    first, last = listener.ports
    ports = f"{first}" if first == last else f"{first}-{last}"
    to = f"{KEYWORD[version]} daddr {{ {', '.join(vips)} }}"
    protocol = f"{_PROTOCOL[version]} {_NUMBER[listener.protocol]}"
    return f"{to} {protocol} {_OUR_PORT[version]} {ports}"


def flow_key(listener: Listener, version: int) -> str:
    """What :func:`agent.distribution.flow_key` is of a packet of the flow."""
    client = _CLIENT[version]
    return client if listener.balance == "source-hash" else f"{client} . {_CLIENT_PORT[version]}"


def connection(version: int) -> str:
    """Source, destination and ports of a packet of the flow."""
    client = f"{_CLIENT[version]} . {_CLIENT_PORT[version]}"
    return f"{client} . {KEYWORD[version]} daddr . {_OUR_PORT[version]}"
