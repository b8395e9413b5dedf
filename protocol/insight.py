"""What ``halbctl explain``, ``matrix`` and ``gateway list`` ask for, and show."""

from __future__ import annotations

import msgspec


class Explain(msgspec.Struct, frozen=True, tag_field="op", tag="explain"):
    """Answered by :class:`Explanation`, after all devices were asked."""

    virtual_server: str
    patience: float = 0.0
    """Seconds that the other devices have to answer; 0: as is usual."""


class GetMatrix(msgspec.Struct, frozen=True, tag_field="op", tag="matrix"):
    """Answered by :class:`Matrix`, after all devices were asked."""

    patience: float = 0.0
    """As of :class:`Explain`."""


class GetGateways(msgspec.Struct, frozen=True, tag_field="op", tag="gateways"):
    """Answered by :class:`Gateways`, after all devices were asked."""

    virtual_server: str
    patience: float = 0.0
    """As of :class:`Explain`."""


class ElectionTold(msgspec.Struct, frozen=True):
    """How the primary came to be it."""

    cause: str
    term: int
    ago_s: int
    """Seconds."""
    predecessor: str
    """The primary before; empty where unknown."""
    answers: dict[str, str]
    """By device: whether it would vote, when it was asked, or why not."""
    votes: dict[str, str]
    """By device: whether it voted, or why not."""


class ExplainedDevice(msgspec.Struct, frozen=True):
    """One device's part, as it reported it just now."""

    name: str
    role: str
    """waiting | secondary | witness | candidate | elect | primary | lame-duck | unknown"""
    rank: int
    """1 is best; 0: it may not be primary."""
    lacks: str
    """What keeps it from being primary; empty if nothing."""
    late: str
    """Why it is ranked last."""
    term: int
    voted_for: str
    promised_to: str
    promise_ms: int
    """For so long it votes for nobody else."""
    heard_ms: int
    """Since it heard the primary; -1: unknown."""
    gateways: int
    """Healthy gateways that it sees; -1: unknown."""
    revision: str
    """Configuration that it has."""


class Explanation(msgspec.Struct, frozen=True, tag_field="re", tag="explanation"):
    """Why a Virtual Server is where it is, and what would move it."""

    virtual_server: str
    device: str
    """The device that answered."""
    primary: str | None
    term: int
    why: str
    election: ElectionTold | None
    confirmed_ms: int
    """Age of the newest beat that a majority acked; -1 without a primary."""
    step_down_ms: int
    """In so long the primary gives up if nobody acks; -1 without a primary."""
    voters: int
    majority: int
    devices: tuple[ExplainedDevice, ...]
    moves: tuple[str, ...]
    """Which change would move it, one sentence each."""


class GatewayView(msgspec.Struct, frozen=True):
    """One gateway as one device sees it."""

    device: str
    role: str
    """primary | secondary"""
    state: str
    """up | down | unchecked (disabled, or it has nothing to check) | unknown (no answer)"""
    reason: str
    """Why it is down."""
    connections: int
    """Flows of that device's kernel, two seconds old at most; -1: unknown."""


class GatewayViews(msgspec.Struct, frozen=True):
    """One gateway as all devices see it."""

    name: str
    address: str
    weight: int
    state: str
    """enabled | draining | disabled: what the configuration says."""
    drain_until: int | None
    """Deadline of a drain, Unix seconds."""
    devices: tuple[GatewayView, ...]
    backup: bool = False
    max_connections: int = 0
    """Most connections at a time; 0: any number."""


class Gateways(msgspec.Struct, frozen=True, tag_field="re", tag="gateways"):
    """The gateways of a Virtual Server, as seen from all devices that may carry it."""

    virtual_server: str
    device: str
    """The device that answered."""
    primary: str | None
    gateways: tuple[GatewayViews, ...]
    counted: bool = True
    """Whether connections can be counted: not in a mode in which the kernel remembers none."""


class Traced(msgspec.Struct, frozen=True, tag_field="re", tag="traced"):
    """Which gateway a flow goes to, and why, by the rules of one device."""

    virtual_server: str
    device: str
    """The device that answered: these are its rules."""
    primary: str | None
    client: str
    """``ADDRESS:PORT``."""
    vip: str
    """The first of its IP version."""
    listener: str
    """Its key, such as ``tcp/443``."""
    gateway: str | None
    """None where only the next packet decides, or where the flow is refused."""
    address: str | None
    """The gateway's address."""
    how: str
    """connection | sticky | only | slot | turn | overflow | refused"""
    slot: int | None
    why: tuple[str, ...]
    """What decided, one sentence each, in order."""
    connection_vip: str | None = None
    """The VIP that the flow is to, where its connection exists."""


class MatrixLink(msgspec.Struct, frozen=True):
    """What ``hears`` hears of ``of``."""

    hears: str
    of: str
    heard_ms: int
    """Since the newest message; -1: never."""
    loss: tuple[float, ...]
    """Per connection: per cent of beats that did not come in time; -1: unknown."""
    round_trip_ms: tuple[float, float]
    """Median and 99th percentile; -1: unknown."""


class Matrix(msgspec.Struct, frozen=True, tag_field="re", tag="matrix"):
    """Who hears whom."""

    device: str
    """The device that answered."""
    devices: tuple[str, ...]
    silent: tuple[str, ...]
    """Devices that did not answer."""
    links: tuple[MatrixLink, ...]
