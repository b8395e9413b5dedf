"""Errors of ICMP about a flow that nobody remembers: they find its gateway as its packets do. Pure.

Such an error quotes the packet that it is about: one from the VIP to the client. What stands there
as destination is the source of the flow's own packets, so it gives the same slot.

Where packets to the gateway are rewritten, what an error quotes is, too: a gateway knows the flow
by its own address. Of IPv4, where this takes type and code, only that a packet was too large is
passed on then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address

from agent.checksums import due
from agent.distribution import seat_map
from agent.ipversion import KEYWORD
from protocol.objects import Listener

KINDS = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
}
"""Errors of each IP version. In all of them the quoted packet begins after 8 bytes."""
TOO_LARGE = {4: "icmp type destination-unreachable icmp code frag-needed", 6: KINDS[6]}
"""Of these, the ones that can be rewritten."""
_NUMBER = {"tcp": 6, "udp": 17}
_PROTOCOL = {4: "@th,64,8 0x45 @th,136,8", 6: "@th,112,8"}
"""Protocol of the quoted packet; of IPv4 only one without options, for ports stand behind them."""
_CLIENT = {4: "@th,192,32", 6: "@th,256,128"}
_CLIENT_PORT = {4: "@th,240,16", 6: "@th,400,16"}
_OURS = {4: "@th,160,32", 6: "@th,128,128"}
_OUR_PORT = {4: "@th,224,16", 6: "@th,384,16"}

_KIND = "@th,0,16"
"""Type and code of an error."""
_FRAG_NEEDED = 0x0304
"""Type and code of the error of IPv4 that a packet was too large."""


def about(listener: Listener, version: int) -> str:
    """Matches, of errors to a VIP, those about packets that came from the listener."""
    first, last = listener.ports
    ports = f"{first}" if first == last else f"{first}-{last}"
    protocol = f"{_PROTOCOL[version]} {_NUMBER[listener.protocol]}"
    return f"{protocol} {_OUR_PORT[version]} {ports}"


def flow_key(listener: Listener, version: int) -> str:
    """What :func:`agent.distribution.flow_key` is of a packet of the flow."""
    client = _CLIENT[version]
    return client if listener.balance == "source-hash" else f"{client} . {_CLIENT_PORT[version]}"


def connection(version: int) -> str:
    """Source, destination and ports of a packet of the flow."""
    client = f"{_CLIENT[version]} . {_CLIENT_PORT[version]}"
    return f"{client} . {KEYWORD[version]} daddr . {_OUR_PORT[version]}"


def rewritten(
    listener: Listener, version: int, vip: str, gateways: Mapping[int, str], only: str | None
) -> tuple[str, Mapping[str, str]]:
    """Statements that make one of :data:`TOO_LARGE` about the VIP one about a gateway, and for it;
    and maps that they need.

    That is the one of the seat in ``meta priority``, unless there is ``only`` one.
    """
    sets: dict[str, str] = {}

    def each(of: Callable[[str], str], to: str = "") -> str:
        if only is not None:
            return of(only)
        way = seat_map({seat: of(address) for seat, address in gateways.items()}, to)
        sets.update(way.sets)
        return way.expression

    old, new = (ports[0].to_bytes(2, "big") for ports in (listener.ports, listener.gateway_ports))
    quoted = f"{_OURS[version]} set {each(_number, _OURS[version])} "
    if old != new:
        quoted += f"{_OUR_PORT[version]} set {listener.gateway_port} "
    to, packed = each(str), ip_address(vip).packed
    if version == 4:
        owed = each(
            lambda at: f"{due(_FRAG_NEEDED, packed + old, ip_address(at).packed + new):#x}", _KIND
        )
        back = "icmp type set destination-unreachable icmp code set frag-needed"
        return f"{quoted}{_KIND} set {owed} {back} ip daddr set {to}", sets
    # The checksum is of the destination, too. To be brought up to date for the address
    # that is quoted, it is for this one twice; and for the port.
    last = due(int.from_bytes(packed[-2:], "big"), old, new).to_bytes(2, "big")
    again = f"@nh,192,128 set 0x{(packed[:-2] + last).hex()}"
    return f"{quoted}ip6 daddr set {to} {again} ip6 daddr set {to}", sets


def _number(address: str) -> str:
    """An address as nft writes raw bytes."""
    return f"0x{ip_address(address).packed.hex()}"
