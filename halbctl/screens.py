"""What people see of a Site, as lines of text. Pure: data and the time in, lines out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from halbctl.output import Cell, Paint, clean, sentence, table
from protocol.durations import utc
from protocol.ports import ports_text

if TYPE_CHECKING:
    from halbctl.replies import Device, Gateway, Listener, Status, VirtualServer

_STYLES = {
    "ok": "green", "up": "green", "alive": "green", "primary": "bold",
    "degraded": "yellow", "suspect": "yellow", "draining": "yellow", "drained": "yellow",
    "stopped": "yellow", "disabled": "dim", "witness": "dim",
    "down": "red", "dead": "red", "left": "dim",
}  # fmt: skip
_LOUD = ("degraded", "down", "dead")
"""States that are written in capitals: they are seen without colour too."""


def state(word: str) -> Cell:
    """A state, so that a bad one is seen at once."""
    return Cell(word.upper() if word in _LOUD else word, _STYLES.get(word, ""))


def status_screen(status: Status, now: float, paint: Paint) -> list[str]:
    """The Site, a block per Virtual Server, the devices, the warnings."""
    alive = {device["name"]: device["state"] for device in status["devices"]}
    lines = [_headline(status, paint)]
    for virtual_server in status["virtual_servers"]:
        lines += ["", *virtual_server_block(virtual_server, alive, now, paint)]
    if not status["virtual_servers"]:
        lines += ["", "no Virtual Server yet: make one with `halbctl vs create` or `halbctl apply`"]
    if status["devices"]:
        lines += ["", *device_table(status["devices"], status["revision"], paint)]
    if status["warnings"]:
        lines += ["", *warning_lines(status["warnings"], paint)]
    return lines


def warning_lines(warnings: Iterable[str], paint: Paint) -> list[str]:
    """What is not as it should be, a sentence each."""
    told = (sentence(each, paint, "warning:", "yellow", "bold") for each in warnings)
    return [line for lines in told for line in lines]


def _headline(status: Status, paint: Paint) -> str:
    devices = status["devices"]
    alive = sum(device["state"] == "alive" for device in devices)
    count = f"{alive} of {len(devices)} devices alive"
    coordinator = status["coordinator"]
    return "   ".join(
        [
            paint(f"Site {clean(status['site'])}", "bold"),
            f"revision {clean(status['revision'])}",
            f"coordinator {clean(coordinator)}" if coordinator
            else paint("NO COORDINATOR", "red", "bold"),
            count if alive == len(devices) else paint(count, "yellow", "bold"),
            paint(f"as seen by {clean(status['device'])}", "dim"),
        ]
    )  # fmt: skip


def virtual_server_block(
    vs: VirtualServer, alive: dict[str, str], now: float, paint: Paint
) -> list[str]:
    """One Virtual Server; ``alive`` has the state of each device by name."""
    word = state(vs["state"])
    lines = [
        "   ".join(
            [
                paint(clean(vs["name"]), "bold"),
                paint(word.text, word.style, "bold"),
                _primary(vs, now, paint),
                f"term {vs['term']}",
                *([f"profile {clean(vs['profile'])}"] if vs["profile"] != "normal" else []),
                *_way(vs),
                *([f"without peer: {clean(vs['peer_loss'])}"] if vs["peer_loss"] else []),
            ]
        ),
        *_where(vs, paint),
    ]
    for reason in vs["reasons"]:
        lines += sentence(reason, paint, "because", word.style, indent="  ")
    for note in vs["notes"]:
        lines += sentence(note, paint, "note", "cyan", indent="  ")
    devices = [
        (
            device["name"],
            Cell(device["role"], _STYLES.get(device["role"], "")),
            state(alive.get(device["name"], "?")),
            "" if device["eligible"] or device["role"] == "witness" else Cell("no", "yellow"),
            device["reason"],
        )
        for device in vs["devices"]
    ]
    gateways = [
        (
            g["name"],
            g["address"],
            state(g["state"]),
            g["weight"],
            _count(g),
            g["reason"] or g.get("note", ""),
        )
        for g in vs["gateways"]
    ]
    if devices:
        titles: tuple[str, ...] = ("DEVICE", "ROLE", "STATE", "ELIGIBLE", "REASON")
        lines += table(titles, devices, paint, "  ")
    if gateways:
        titles = ("GATEWAY", "ADDRESS", "STATE", "WEIGHT", "CONNECTIONS", "REASON")
        lines += table(titles, gateways, paint, "  ", spare=("WEIGHT", "ADDRESS"))
    return lines


def _way(vs: VirtualServer) -> list[str]:
    """Mode of forwarding, where it is not the usual one."""
    if vs["forwarding"] == "snat":
        return []
    through = f" through {clean(', '.join(vs['inner_vips']))}" if vs["inner_vips"] else ""
    return [f"{clean(vs['forwarding'])}{through}"]


def _where(vs: VirtualServer, paint: Paint) -> list[str]:
    """VIPs and listeners, on a line where there is room for both."""
    vips, ports = "  ".join(map(clean, vs["vips"])) + _mac(vs), listeners(vs["listeners"])
    line = f"  {vips}   {ports}".rstrip()
    if paint.room is None or len(line) <= paint.room:
        return [line]
    return [f"  {vips}", *sentence(ports, paint, indent="  ")]


def _mac(vs: VirtualServer) -> str:
    """Hardware address of the VIPs, where it is their own."""
    return f"  at {clean(vs['virtual_mac'])}" if vs["virtual_mac"] else ""


def _primary(vs: VirtualServer, now: float, paint: Paint) -> str:
    if vs["primary"] is None:
        return paint("NO PRIMARY", "red", "bold")
    since = seconds_of(vs["since"])
    name = paint(clean(vs["primary"]), "bold")
    if since is None:
        return f"primary {name}"
    return f"primary {name} for {age(now - since)} (since {utc(since)})"


def _count(gateway: Gateway) -> int | str:
    return gateway["connections"] if gateway["connections"] >= 0 else "?"


def listener_key(item: Listener) -> str:
    """``tcp/443``, ``udp/3000-3010``, ``tcp/all``."""
    return f"{item['protocol']}/{ports_text((item['port'], item['last_port'] or item['port']))}"


def listeners(items: Iterable[Listener]) -> str:
    """``tcp/443 hash, udp/53->5353 source-hash``."""
    return clean(
        ", ".join(
            listener_key(item)
            + (f"->{item['gateway_port']}" if item["gateway_port"] != item["port"] else "")
            + f" {item['balance']}"
            for item in items
        )
    )


def virtual_server_table(items: Iterable[VirtualServer], now: float, paint: Paint) -> list[str]:
    """A line per Virtual Server."""
    rows = []
    for vs in items:
        since = seconds_of(vs["since"])
        up = sum(gateway["state"] == "up" for gateway in vs["gateways"])
        rows.append(
            (
                vs["name"],
                state(vs["state"]),
                vs["primary"] or Cell("none", "red"),
                "" if since is None else age(now - since),
                vs["term"],
                f"{up}/{len(vs['gateways'])} up",
                ", ".join(vs["vips"]),
                listeners(vs["listeners"]),
            )
        )
    titles = ("NAME", "STATE", "PRIMARY", "FOR", "TERM", "GATEWAYS", "VIPS", "LISTENERS")
    return table(titles, rows, paint, spare=("LISTENERS", "TERM", "VIPS"))


def device_table(devices: Iterable[Device], revision: str, paint: Paint) -> list[str]:
    """A line per device; a configuration older than ``revision`` is marked."""
    rows = [
        (
            device["name"],
            state(device["state"]),
            Cell(", ".join(_marks(device)), "yellow" if device["drained"] else "dim"),
            device["primary_of"],
            Cell(device["revision"], "" if device["revision"] == revision else "yellow"),
            device["version"],
            ", ".join(device["addresses"]),
            device["id"],
        )
        for device in devices
    ]
    titles = ("DEVICE", "STATE", "MARK", "PRIMARY OF", "REVISION", "VERSION", "ADDRESSES", "ID")
    return table(titles, rows, paint, spare=("ID", "VERSION", "ADDRESSES"))


def _marks(device: Device) -> list[str]:
    marks = {"witness": device["witness"], "drained": device["drained"]}
    return [word for word, is_so in marks.items() if is_so]


def seconds_of(iso: str | None) -> float | None:
    """Unix time of an ISO 8601 moment; None if there is none."""
    return None if iso is None else datetime.fromisoformat(iso).timestamp()


def age(seconds: float) -> str:
    """``45s``, ``3m 12s``, ``3h 12m``, ``2d 4h``: two units are enough."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60}s"
    if left < 86_400:
        return f"{left // 3600}h {left % 3600 // 60}m"
    return f"{left // 86_400}d {left % 86_400 // 3600}h"
