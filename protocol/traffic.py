"""What ``halbctl top`` and ``halbctl metrics`` show: replies of the control API."""

from __future__ import annotations

import msgspec


class Traffic(msgspec.Struct, frozen=True):
    """What was counted since the accounts were made; totals only grow. -1 is unknown."""

    connections: int = 0
    """New flows that went out to a gateway."""
    refused: int = 0
    """New flows that were sent to no gateway; of listeners and above."""
    dropped: int = 0
    """New flows that another firewall of this host dropped; of listeners and above."""
    active: int = -1
    """Live flows."""
    rate: float = -1.0
    """New flows per second, since a second ago or more."""
    packets_in: int = 0
    """From clients to gateways."""
    bytes_in: int = 0
    packets_out: int = 0
    """From gateways to clients."""
    bytes_out: int = 0


class GatewayTraffic(msgspec.Struct, frozen=True):
    """One gateway of one listener."""

    name: str
    traffic: Traffic


class ListenerTraffic(msgspec.Struct, frozen=True):
    """One listener, over all VIPs."""

    listener: str
    """Such as ``tcp/443``."""
    traffic: Traffic
    gateways: tuple[GatewayTraffic, ...]


class VirtualServerTraffic(msgspec.Struct, frozen=True):
    """One Virtual Server on the answering device."""

    name: str
    primary: bool
    """Whether the answering device is its primary."""
    traffic: Traffic
    listeners: tuple[ListenerTraffic, ...]


class Counters(msgspec.Struct, frozen=True, tag_field="re", tag="counters"):
    """Traffic of the Virtual Servers that the answering device carries."""

    device: str
    at: int
    """Unix time, milliseconds."""
    virtual_servers: tuple[VirtualServerTraffic, ...]


class Metrics(msgspec.Struct, frozen=True, tag_field="re", tag="metrics"):
    """All figures of the answering device as OpenMetrics text."""

    text: str
