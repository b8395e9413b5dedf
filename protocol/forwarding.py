"""What each mode of forwarding can do, and what it therefore refuses.

``snat`` remembers every flow. ``routed`` needs a way back for the gateways, and
knows an answer by the gateway and port that it comes from. ``dsr`` sees no
answers at all, and alters nothing of a packet but where it goes next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from protocol.addresses import check_vip, family
from protocol.errors import InvalidInput, Refused
from protocol.listener_document import ListenerDocument
from protocol.objects import PURE, Hashed, Listener, VirtualServer
from protocol.ports import overlap

if TYPE_CHECKING:
    from protocol.document import VirtualServerDocument


def check_forwarding(document: VirtualServerDocument, where: str = "") -> None:
    """Check that the mode of a Virtual Server fits its VIPs, gateways and listeners."""
    _check_inner_vips(document, where)
    if document.forwarding == "dsr":
        for index, listener in enumerate(document.listeners):
            _check_direct(listener, f"{where}listeners[{index}]")
        for index, gateway in enumerate(document.gateways):
            _refuse_memory(f"{where}gateways[{index}]", "max_connections", gateway.max_connections)
        _refuse_memory(where.rstrip("."), "slow_start", document.slow_start)


def _check_inner_vips(document: VirtualServerDocument, where: str) -> None:
    inner = [
        check_vip(f"{where}inner_vips[{index}]", vip)
        for index, vip in enumerate(document.inner_vips)
    ]
    if document.forwarding != "routed":
        if inner:
            raise InvalidInput(
                f"`{where}inner_vips` is given, but `forwarding` is {document.forwarding}",
                "Leave it out: only with `routed` gateways route back through a device.",
            )
        return
    vips = [check_vip(f"{where}vips[{index}]", vip) for index, vip in enumerate(document.vips)]
    for vip in inner:
        address = vip.partition("/")[0]
        if address in (other.partition("/")[0] for other in vips):
            raise InvalidInput(
                f"`{where}inner_vips` has {address}, which is among `vips` too",
                "Use another address of the gateways' network.",
            )
        if sum(family(other) == family(vip) for other in inner) > 1:
            raise InvalidInput(
                f"`{where}inner_vips` has two IPv{family(vip)} addresses",
                "Name one: it is where the gateways' route leads.",
            )
    versions, given = {family(vip) for vip in vips}, {family(vip) for vip in inner}
    for version in sorted(versions - given):
        raise InvalidInput(
            f"`{where}inner_vips` has no IPv{version} address, but `vips` has",
            f"With `routed` the gateways route back through a device: add an IPv{version} "
            "address of their network for it.",
        )
    for version in sorted(given - versions):
        raise InvalidInput(
            f"`{where}inner_vips` has an IPv{version} address, but `vips` has none",
            "Leave it out.",
        )


def _check_direct(listener: ListenerDocument, here: str) -> None:
    if listener.gateway_port not in (None, listener.ports[0]):
        raise InvalidInput(
            f"`{here}.gateway_port` is {listener.gateway_port}, but `forwarding` is dsr, "
            "which alters no packet",
            "Leave it out, and let the gateways listen on the port itself.",
        )
    if listener.balance not in PURE:
        raise InvalidInput(
            f"`{here}.balance` is {listener.balance}, but with dsr no device remembers a flow",
            "Use hash or source-hash, which need no memory.",
        )
    if listener.passive:
        raise InvalidInput(
            f"`{here}.passive` is true, but with dsr no device sees what gateways answer",
            "Leave it out: checks see whether they do.",
        )
    for key in ("sticky", "client_connections", "client_rate"):
        _refuse_memory(here, key, getattr(listener, key))


def _refuse_memory(here: str, key: str, value: int) -> None:
    if value:
        path = f"{here}.{key}" if here else key
        raise InvalidInput(
            f"`{path}` is {value}, but with dsr no device remembers a flow",
            "Leave it out, or use snat or routed.",
        )


def hashed_by(server: VirtualServer, listener: Listener) -> Hashed:
    """By which hash every device finds the gateway of a packet alone, so that none remembers."""
    limits = listener.client_connections or listener.client_rate or server.slow_start
    remembers = server.forwarding == "snat" or listener.sticky or limits
    if remembers or any(gateway.max_connections for gateway in server.gateways):
        return ""
    match listener.balance:
        case "hash" | "source-hash" as balance:
            return balance
        case _:
            return ""


def refuse_ambiguous(servers: Iterable[VirtualServer]) -> None:
    """Refuse two routed listeners with a gateway and port in common.

    Their answers could not be told apart by a device that has not seen the
    questions, such as the next primary.
    """
    seen: dict[tuple[str, str], list[tuple[VirtualServer, Listener]]] = {}
    for server in servers:
        if server.forwarding != "routed":
            continue
        for gateway in server.gateways:
            for listener in server.listeners:
                there = seen.setdefault((gateway.address, listener.protocol), [])
                for other, its in there:
                    if overlap(listener.gateway_ports, its.gateway_ports):
                        raise Refused(*_ambiguous(gateway.address, other, its, server, listener))
                there.append((server, listener))


def _ambiguous(
    gateway: str, one: VirtualServer, its: Listener, other: VirtualServer, listener: Listener
) -> tuple[str, str]:
    common = max(its.gateway_ports[0], listener.gateway_ports[0])
    who = f"listeners {one.name}/{its.key} and {other.name}/{listener.key} are `routed`"
    where = f"{listener.protocol} port {common} of gateway {gateway}"
    return (
        f"{who}, but answers from {where} could belong to both",
        "Give one of them another `gateway_port`, the gateway a second address, or use snat.",
    )
