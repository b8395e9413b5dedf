"""The agent's replies as plain data: the read side of :mod:`protocol.api`.

Types without cost: they mirror the structs there field by field (a test
compares them), and nothing at run time imports this module.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Listener(TypedDict):
    """:class:`protocol.api.ListenerStatus`."""

    protocol: str
    port: int
    gateway_port: int
    balance: str
    last_port: int


class Gateway(TypedDict):
    """:class:`protocol.api.GatewayStatus`."""

    name: str
    address: str
    state: str
    weight: int
    connections: int
    reason: str
    note: NotRequired[str]


class VirtualServerDevice(TypedDict):
    """:class:`protocol.api.VirtualServerDevice`."""

    name: str
    role: str
    eligible: bool
    reason: str


class VirtualServer(TypedDict):
    """:class:`protocol.api.VirtualServerStatus`."""

    name: str
    vips: list[str]
    state: str
    primary: str | None
    term: int
    since: str | None
    profile: str
    devices: list[VirtualServerDevice]
    listeners: list[Listener]
    gateways: list[Gateway]
    reasons: list[str]
    notes: list[str]
    peer_loss: str
    forwarding: str
    inner_vips: list[str]
    virtual_mac: str


class Device(TypedDict):
    """:class:`protocol.api.DeviceStatus`."""

    name: str
    id: str
    addresses: list[str]
    state: str
    version: str
    drained: bool
    witness: bool
    revision: str
    primary_of: int


class Status(TypedDict):
    """:class:`protocol.api.Status`."""

    site: str
    revision: str
    device: str
    coordinator: str | None
    virtual_servers: list[VirtualServer]
    devices: list[Device]
    warnings: list[str]
    took_us: int


class Entry(TypedDict):
    """:class:`protocol.api.HistoryEntry`."""

    at: int
    kind: str
    virtual_server: str
    uid: str | None
    device: str
    reporter: str
    term: int
    text: str
    timeline: dict[str, float]


class Traced(TypedDict):
    """:class:`protocol.insight.Traced`."""

    virtual_server: str
    device: str
    primary: str | None
    client: str
    vip: str
    listener: str
    gateway: str | None
    address: str | None
    how: str
    slot: int | None
    why: list[str]
    connection_vip: NotRequired[str | None]


class Exported(TypedDict):
    """:class:`protocol.api.Exported`."""

    document: dict[str, Any]
    revision: str


class LostObject(TypedDict):
    """:class:`protocol.api.LostObject`."""

    kind: str
    name: str
    action: str
    document: dict[str, Any] | None


class LostRequest(TypedDict):
    """:class:`protocol.api.LostRequest`."""

    id: str
    by: str
    at: str
    detail: str


class Conflict(TypedDict):
    """:class:`protocol.api.ConflictInfo`."""

    id: str
    kind: str
    at: str
    lost: str
    won: str
    requests: list[LostRequest]
    objects: list[LostObject]


class Election(TypedDict):
    """:class:`protocol.insight.ElectionTold`."""

    cause: str
    term: int
    ago_s: int
    predecessor: str
    answers: dict[str, str]
    votes: dict[str, str]


class ExplainedDevice(TypedDict):
    """:class:`protocol.insight.ExplainedDevice`."""

    name: str
    role: str
    rank: int
    lacks: str
    late: str
    term: int
    voted_for: str
    promised_to: str
    promise_ms: int
    heard_ms: int
    gateways: int
    revision: str


class Explanation(TypedDict):
    """:class:`protocol.insight.Explanation`."""

    virtual_server: str
    device: str
    primary: str | None
    term: int
    why: str
    election: Election | None
    confirmed_ms: int
    step_down_ms: int
    voters: int
    majority: int
    devices: list[ExplainedDevice]
    moves: list[str]


class GatewayView(TypedDict):
    """:class:`protocol.insight.GatewayView`."""

    device: str
    role: str
    state: str
    reason: str
    connections: int


class GatewayViews(TypedDict):
    """:class:`protocol.insight.GatewayViews`."""

    name: str
    address: str
    weight: int
    state: str
    drain_until: int | None
    devices: list[GatewayView]
    backup: bool
    max_connections: int


class Gateways(TypedDict):
    """:class:`protocol.insight.Gateways`."""

    virtual_server: str
    device: str
    primary: str | None
    gateways: list[GatewayViews]
    counted: bool


class Link(TypedDict):
    """:class:`protocol.insight.MatrixLink`."""

    hears: str
    of: str
    heard_ms: int
    loss: list[float]
    round_trip_ms: list[float]


class Finding(TypedDict):
    """:class:`protocol.diagnosis.Finding`."""

    check: str
    state: str
    text: str
    remedy: str


class Diagnosis(TypedDict):
    """:class:`protocol.diagnosis.Diagnosis`."""

    device: str
    site: str
    findings: list[Finding]


class Matrix(TypedDict):
    """:class:`protocol.insight.Matrix`."""

    device: str
    devices: list[str]
    silent: list[str]
    links: list[Link]


class Traffic(TypedDict):
    """:class:`protocol.traffic.Traffic`."""

    connections: int
    refused: int
    dropped: int
    active: int
    rate: float
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


class GatewayTraffic(TypedDict):
    """:class:`protocol.traffic.GatewayTraffic`."""

    name: str
    traffic: Traffic


class ListenerTraffic(TypedDict):
    """:class:`protocol.traffic.ListenerTraffic`."""

    listener: str
    traffic: Traffic
    gateways: list[GatewayTraffic]


class VirtualServerTraffic(TypedDict):
    """:class:`protocol.traffic.VirtualServerTraffic`."""

    name: str
    primary: bool
    traffic: Traffic
    listeners: list[ListenerTraffic]


class Counters(TypedDict):
    """:class:`protocol.traffic.Counters`."""

    device: str
    at: int
    virtual_servers: list[VirtualServerTraffic]
