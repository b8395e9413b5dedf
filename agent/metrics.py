"""All figures of one device as OpenMetrics text. Pure.

Names are promises: docs/metrics.md lists them. A name ends with its unit, a
counter's samples with ``_total``.
Source of the format: OpenMetrics 1.0 (https://openmetrics.io).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from agent.conntrack_limit import Room
from protocol.api import Status
from protocol.traffic import Traffic, VirtualServerTraffic

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, float]
Family = tuple[str, str, str, Iterable[Sample]]

EVENTS = ("primary", "two-owners")
"""Kinds of events that are counted from zero; others appear with their first one."""


@dataclass(frozen=True)
class Figures:
    """What is told beside status and traffic."""

    version: str
    events: Mapping[tuple[str, str], int]
    """By kind and Virtual Server, since the agent started."""
    lateness_ns: int
    """99 of 100 wake-ups of the loop were at most so late."""
    frames: Mapping[str, int] = field(default_factory=dict)
    """Frames from other devices, by what became of them."""
    room: Room | None = None
    """The kernel's connection table; None on a witness."""
    faults: int = 0
    """What nobody foresaw, and the log tells with its trace, since the agent started."""


def render(
    status: Status, traffic: Iterable[VirtualServerTraffic], figures: Figures
) -> str:  # fmt: skip
    """The whole exposition, ending with ``# EOF``."""
    families = chain(
        _about_site(status, figures), _about_traffic(tuple(traffic)), _about_host(figures)
    )
    return "".join(chain(map(_written, families), ["# EOF\n"]))


def _written(family: Family) -> str:
    """One family at a time: each line of all by itself takes twice the memory of the text."""
    name, kind, meaning, samples = family
    suffix = "_total" if kind == "counter" else ""
    lines = [f"# TYPE {name} {kind}\n", f"# HELP {name} {meaning}\n"]
    # Below zero is what is not known, and not told.
    lines += (
        f"{name}{suffix}{_braced(labels)} {value:.15g}\n" for labels, value in samples if value >= 0
    )
    return "".join(lines)


def _about_site(status: Status, figures: Figures) -> Iterator[Family]:
    about = (("version", figures.version), ("device", status.device), ("site", status.site))
    # No "info": collectors that know only the older text format refuse all of a file for that.
    yield "halb_agent_info", "gauge", "The agent that answered.", [(about, 1)]
    yield (
        "halb_device_alive", "gauge", "Whether a device is heard, as seen from here.",
        [((("device", d.name),), d.state == "alive") for d in status.devices],
    )  # fmt: skip
    yield (
        "halb_coordinator_known", "gauge", "Whether the configuration can be changed.",
        [((), status.coordinator is not None)],
    )  # fmt: skip
    yield "halb_warnings", "gauge", "Warnings of `halbctl status`.", [((), len(status.warnings))]
    servers = [((("virtual_server", s.name),), s) for s in status.virtual_servers]
    yield (
        "halb_virtual_server_state", "gauge", "2 ok, 1 degraded, 0 down.",
        [(of, {"ok": 2, "degraded": 1}.get(s.state, 0)) for of, s in servers],
    )  # fmt: skip
    yield (
        "halb_virtual_server_primary", "gauge", "Whether this device is the primary.",
        [(of, s.primary == status.device) for of, s in servers],
    )  # fmt: skip
    yield (
        "halb_virtual_server_term", "gauge", "The term of the newest election known here.",
        [(of, s.term) for of, s in servers],
    )  # fmt: skip
    yield (
        "halb_gateway_up", "gauge", "Whether a gateway takes flows, as seen from here.",
        [((*of, ("gateway", g.name)), g.state == "up") for of, s in servers for g in s.gateways],
    )  # fmt: skip
    yield (
        "halb_gateways_up", "gauge", "Gateways that take flows.",
        [(of, sum(g.state == "up" for g in s.gateways)) for of, s in servers],
    )  # fmt: skip
    kinds = dict.fromkeys(((k, s.name) for s in status.virtual_servers for k in EVENTS), 0)
    yield (
        "halb_events", "counter", "Entries of the history, since the agent started.",
        [
            ((("virtual_server", server), ("kind", kind)), number)
            for (kind, server), number in {**kinds, **figures.events}.items()
        ],
    )  # fmt: skip


def _about_traffic(servers: tuple[VirtualServerTraffic, ...]) -> Iterator[Family]:
    accounts: list[tuple[Labels, Traffic]] = [
        (
            (("virtual_server", s.name), ("listener", each.listener), ("gateway", g.name)),
            g.traffic,
        )
        for s in servers
        for each in s.listeners
        for g in each.gateways
    ]
    yield (
        "halb_connections", "counter", "New flows that went out to a gateway.",
        [(labels, t.connections) for labels, t in accounts],
    )  # fmt: skip
    yield (
        "halb_active_connections", "gauge", "Live flows.",
        [(labels, t.active) for labels, t in accounts],
    )  # fmt: skip
    yield (
        "halb_refused_connections", "counter", "New flows that went out to no gateway.",
        [
            ((("virtual_server", s.name), ("listener", each.listener)), each.traffic.refused)
            for s in servers
            for each in s.listeners
        ],
    )  # fmt: skip
    yield (
        "halb_dropped_connections", "counter", "New flows that another firewall dropped.",
        [
            ((("virtual_server", s.name), ("listener", each.listener)), each.traffic.dropped)
            for s in servers
            for each in s.listeners
        ],
    )  # fmt: skip
    yield (
        "halb_packets", "counter", "Packets: in, from clients; out, from gateways.",
        _both_ways((labels, t.packets_in, t.packets_out) for labels, t in accounts),
    )  # fmt: skip
    yield (
        "halb_traffic_bytes", "counter", "Bytes from the IP header on.",
        _both_ways((labels, t.bytes_in, t.bytes_out) for labels, t in accounts),
    )  # fmt: skip


def _both_ways(accounts: Iterable[tuple[Labels, int, int]]) -> Iterator[Sample]:
    for labels, came, went in accounts:
        yield (*labels, ("direction", "in")), came
        yield (*labels, ("direction", "out")), went


def _about_host(figures: Figures) -> Iterator[Family]:
    yield (
        "halb_loop_lateness_seconds", "gauge", "99 of 100 wake-ups were at most so late.",
        [((), figures.lateness_ns / 1e9)],
    )  # fmt: skip
    yield (
        "halb_faults", "counter", "What nobody foresaw: the agent's log has each with its trace.",
        [((), figures.faults)],
    )  # fmt: skip
    yield (
        "halb_transport_frames", "counter", "Frames from other devices, by their fate.",
        [((("fate", fate),), number) for fate, number in figures.frames.items()],
    )  # fmt: skip
    if figures.room is not None:
        yield (
            "halb_conntrack_entries", "gauge", "Entries of the kernel's connection table.",
            [((), figures.room.entries)],
        )  # fmt: skip
        yield (
            "halb_conntrack_limit", "gauge", "Entries that the connection table has room for.",
            [((), figures.room.limit)],
        )  # fmt: skip


def _braced(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
