"""Sending on what a new primary cannot translate yet: tables ``ip`` and ``ip6 halb_relay``.

Pure. An announcement moves clients and gateways to the successor at once, in the
middle of flows whose connection entries only the predecessor has: those that are
being opened, which nobody can be told of yet. For as long as that one still
forwards, the successor sends it a copy of each packet that goes on with a flow
which it does not know, and drops the original. Without this a planned move would
cost flows a packet, a stall of about 100 ms; and where no slot tells of their
gateways, a client's first packet after its handshake would go to another one,
which resets the flow.

What opens a connection of TCP is never sent on, nor a client's datagram: these
begin here. The tables are made with their first use: they stand apart from the
lease, so that trouble with them can never keep a lease from opening. ``dup to``
does not exist in the family ``inet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from agent.gate import split
from agent.ipversion import ADDRESS
from protocol.timing import MILLISECOND

TABLE = "halb_relay"
TABLES = (("ip", TABLE), ("ip6", TABLE))
_GOING_ON = "going_on", "type nat hook prerouting priority dstnat - 11"
"""Right before a gateway is chosen; a chain of this kind costs packets of known flows nothing."""
_UNKNOWN = "unknown", "type filter hook input priority filter - 1"
"""Right before the guard, which drops what is sent on."""
_FAMILY = {4: "ip", 6: "ip6"}


def begin(vips: Sequence[str], to: Sequence[str], drain_ns: int) -> str:
    """Send packets to ``vips`` on for ``drain_ns``, to the first address of the same family.

    Empty where ``to`` has no such address; refused for VIPs that :func:`end` did not
    end before.
    """
    lines: list[str] = []
    for version, some in split(vips):
        address = next((a for a in to if ip_address(a).version == version), None)
        if address is not None:
            timeout = f"timeout {drain_ns // MILLISECOND}ms"
            former = ", ".join(f"{vip} {timeout} : {address}" for vip in some)
            lines += _table(_FAMILY[version], ADDRESS[version])
            lines.append(f"add element {_FAMILY[version]} {TABLE} former {{ {former} }}")
    return "".join(f"{line}\n" for line in lines)


def end(vips: Sequence[str]) -> tuple[str, ...]:
    """Send nothing on any more: a script per VIP, refused if nothing was sent on for it.

    A device that hands over must do this: two that send on to each other would
    pass a packet to and fro.
    """
    return tuple(
        f"delete element {_FAMILY[version]} {TABLE} former {{ {vip} }}\n"
        for version, some in split(vips)
        for vip in some
    )


def sample() -> str:
    """Every statement that this module writes, to be tried on a kernel."""
    vips = ("192.0.2.1", "2001:db8::1")
    return begin(vips, ("192.0.2.2", "2001:db8::2"), 1000 * MILLISECOND) + "".join(end(vips))


def _table(family: str, kind: str) -> list[str]:
    """The table, in a form that may be loaded again at any time."""
    send_on = f"dup to {family} daddr map @former"
    chains = {
        # The kernel would make an entry of it, and with that a flow to any gateway.
        _GOING_ON: (f"tcp flags & syn == 0 {send_on} drop",),
        # Of that it makes none: a gateway that agrees to a connection, either end that closes it.
        _UNKNOWN: (
            f"ct state invalid meta l4proto tcp {send_on}",
            f"ct direction original ct status & dnat == 0 meta l4proto udp {send_on}",
        ),
    }
    lines = [
        f"add table {family} {TABLE}",
        f"add map {family} {TABLE} former {{ type {kind} : {kind}; flags timeout; }}",
    ]
    for (name, hook), rules in chains.items():
        lines.append(f"add chain {family} {TABLE} {name} {{ {hook}; policy accept; }}")
        lines.append(f"flush chain {family} {TABLE} {name}")
        lines += (f"add rule {family} {TABLE} {name} {rule}" for rule in rules)
    return lines
