"""The gateways of a Virtual Server as a person writes them."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.addresses import check_gateway_address
from protocol.errors import InvalidInput
from protocol.objects import MAX_CONNECTIONS, MAX_GATEWAYS, Gateway
from protocol.validate import check_count, check_named, check_once, check_range, check_weight

MAX_UNIX_S = 1 << 40


class GatewayDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A server of the farm, as in :class:`protocol.objects.Gateway`."""

    name: str
    address: str
    weight: int = 1
    state: Literal["enabled", "draining", "disabled"] = "enabled"
    backup: bool = False
    max_connections: int = 0
    drain_until: int | None = None


def check_gateways(
    server: str, gateways: tuple[GatewayDocument, ...], vips: tuple[str, ...], where: str = ""
) -> None:
    """Check the gateways of the Virtual Server ``server``, whose VIPs have no prefix here."""
    check_count(f"{where}gateways", gateways, MAX_GATEWAYS)
    seen: dict[str, str] = {}
    for index, gateway in enumerate(gateways):
        here = f"{where}gateways[{index}]."
        check_gateway(gateway, here)
        address = check_gateway_address(f"{here}address", gateway.address)
        if address in vips:
            raise InvalidInput(*gateway_is_vip(server, gateway, server))
        if address in seen:
            raise InvalidInput(
                f"gateways {seen[address]!r} and {gateway.name!r} of Virtual Server "
                f"{server!r} have the same address {address}",
                "Name each gateway once; `weight` gives it a larger share.",
            )
        seen[address] = gateway.name
    check_once(f"{where}gateways", (g.name for g in gateways), "gateway")


def check_gateway(gateway: GatewayDocument, where: str = "") -> None:
    """Check one gateway by itself; ``where`` is put before each path."""
    check_named(f"{where}name", "gateway", gateway.name)
    check_gateway_address(f"{where}address", gateway.address)
    check_weight(f"{where}weight", gateway.weight)
    check_range(f"{where}max_connections", gateway.max_connections, 0, MAX_CONNECTIONS)
    if gateway.drain_until is not None:
        check_range(f"{where}drain_until", gateway.drain_until, 0, MAX_UNIX_S, "seconds (Unix)")
        if gateway.state == "enabled":
            raise InvalidInput(
                f"`{where}drain_until` is the deadline of a drain, and the state is enabled",
                "Leave it out, or write `state: draining`.",
            )


def gateway_is_vip(server: str, gateway: GatewayDocument | Gateway, owner: str) -> tuple[str, str]:
    """Message and remedy for a gateway that would be sent the packets it shall answer."""
    name = f"gateway {server}/{gateway.name}"
    return (
        f"{name} has address {gateway.address}, a VIP of Virtual Server {owner!r}",
        "Name the address of the server behind it; a VIP cannot be a gateway.",
    )


def gateway_of(document: GatewayDocument) -> Gateway:
    """The object that a checked document describes."""
    return Gateway(
        name=document.name,
        address=check_gateway_address("address", document.address),
        weight=document.weight,
        state=document.state,
        backup=document.backup,
        max_connections=document.max_connections,
        drain_until=document.drain_until,
    )


def document_of_gateway(gateway: Gateway) -> GatewayDocument:
    """The document that describes ``gateway``; the inverse of :func:`gateway_of`."""
    return GatewayDocument(
        name=gateway.name,
        address=gateway.address,
        weight=gateway.weight,
        state=gateway.state,
        backup=gateway.backup,
        max_connections=gateway.max_connections,
        drain_until=gateway.drain_until,
    )
