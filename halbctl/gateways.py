"""Gateways as all devices see them, as lines of text. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halbctl.output import Cell, Paint, clean, table
from protocol.durations import utc

if TYPE_CHECKING:
    from halbctl.replies import Gateways, GatewayView, GatewayViews

_STYLES = {"up": "green", "down": "red", "unknown": "yellow", "unchecked": "dim"}


def side_by_side(found: Gateways, paint: Paint) -> list[str]:
    """A line per gateway with a column per device, then times of drains and the reasons."""
    first = found["gateways"][0]["devices"] if found["gateways"] else []
    titles = ["GATEWAY", "ADDRESS", "WEIGHT", "STATE"]
    titles += [f"{d['device']}*" if d["role"] == "primary" else d["device"] for d in first]
    rows: list[tuple[Cell | str | int, ...]] = [
        (
            gateway["name"],
            gateway["address"],
            gateway["weight"],
            gateway["state"],
            *(_cell(view) for view in gateway["devices"]),
        )
        for gateway in found["gateways"]
    ]
    lines = table(titles, rows, paint, spare=("ADDRESS", "WEIGHT"))
    for gateway in found["gateways"]:
        if gateway["drain_until"] is not None:
            lines.append(f"{paint(clean(gateway['name']), 'bold')} is {_configured(gateway)}")
        lines += [
            f"{paint(clean(gateway['name']), 'bold')} as seen by {clean(view['device'])}:"
            f" {clean(view['reason'])}"
            for view in gateway["devices"]
            if view["reason"]
        ]
    if any(view["role"] == "primary" for view in first):
        lines.append(paint("* primary; numbers are connections", "dim"))
    return lines


def by_device(gateway: GatewayViews, paint: Paint) -> list[str]:
    """One gateway, and a line per device."""
    rows = [
        (view["device"], view["role"], _state(view), _count(view), view["reason"])
        for view in gateway["devices"]
    ]
    head = f"{clean(gateway['name'])}  {clean(gateway['address'])}  weight {gateway['weight']}"
    head += "  backup" if gateway.get("backup") else ""
    most = gateway.get("max_connections")
    head += f"  at most {most} connections" if most else ""
    titles = ("DEVICE", "ROLE", "SEES IT", "CONNECTIONS", "REASON")
    return [
        f"{paint(head, 'bold')}  {clean(_configured(gateway))}",
        *table(titles, rows, paint, "  "),
    ]


def _configured(gateway: GatewayViews) -> str:
    until = gateway["drain_until"]
    if until is None:
        return gateway["state"]
    when = "since" if gateway["state"] == "disabled" else "until"
    return f"{gateway['state']} {when} {utc(until)}"


def _state(view: GatewayView) -> Cell:
    word = view["state"]
    return Cell(word.upper() if word == "down" else word, _STYLES.get(word, ""))


def _count(view: GatewayView) -> str:
    return "?" if view["connections"] < 0 else str(view["connections"])


def _cell(view: GatewayView) -> Cell:
    state = _state(view)
    return (
        state if view["state"] == "unknown" else Cell(f"{state.text} {_count(view)}", state.style)
    )
