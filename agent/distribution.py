"""Which gateway a new flow of a listener goes to, as nftables rules. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from agent.hashing import assign_slots
from protocol.ids import GroupId
from protocol.objects import SLOTS, Gateway, Listener, VirtualServer

_KEYWORD = {4: "ip", 6: "ip6"}


def takes_flows(vs: VirtualServer, gateway: Gateway, down: frozenset[tuple[GroupId, str]]) -> bool:
    """Whether new flows may go to ``gateway`` now."""
    return gateway.state == "enabled" and gateway.weight > 0 and (vs.uid, gateway.name) not in down


def listener_rules(
    vs: VirtualServer, listener: Listener, version: int, gateways: Iterable[Gateway]
) -> tuple[str, ...]:
    """Rules of one listener: to the gateway of the flow's slot, or a fast refusal."""
    family = {
        str(address): g.weight
        for g in gateways
        if (address := ip_address(g.address)).version == version
    }
    slots = assign_slots(family, vs.seed)
    if not slots:
        return _refusal(listener)
    port = "" if listener.gateway_port == listener.port else f":{listener.gateway_port}"
    ip = _KEYWORD[version]
    head = f"meta l4proto {listener.protocol} dnat {ip} to"
    if len(set(slots)) == 1:
        bracketed = f"[{slots[0]}]" if version == 6 and port else slots[0]
        return (f"{head} {bracketed}{port}",)
    key = f"{ip} saddr"
    if listener.balance == "hash":
        key += f" . {listener.protocol} sport"
    table = ", ".join(f"{slot} : {gateway}" for slot, gateway in enumerate(slots))
    return (f"{head} jhash {key} mod {SLOTS} seed {vs.seed:#x} map {{ {table} }}{port}",)


def _refusal(listener: Listener) -> tuple[str, ...]:
    """Only what opens a flow is refused: older flows outlive a moment without gateways."""
    if listener.protocol == "tcp":
        return ("tcp flags & (fin|syn|rst|ack) == syn reject with tcp reset", "drop")
    return ("reject with icmpx type port-unreachable",)
