"""Replies as agents of a Site give them."""

from __future__ import annotations

from protocol import api

EMPTY = api.Status(
    site="paris",
    revision="1.1",
    device="a",
    coordinator="a",
    virtual_servers=(),
    devices=(
        api.DeviceStatus(
            name="a",
            id="0123456789abcdef",
            addresses=("10.77.0.1:7480",),
            state="alive",
            version="0.1.0",
            drained=False,
            witness=False,
            revision="1.1",
            primary_of=0,
        ),
    ),
    warnings=(),
)

RDP = api.VirtualServerStatus(
    name="rdp",
    vips=("10.77.0.100/24", "fd77::100/64"),
    state="ok",
    primary="a",
    term=4,
    since="2025-05-01T10:00:00Z",
    profile="normal",
    devices=(
        api.VirtualServerDevice("a", "primary", True, ""),
        api.VirtualServerDevice("b", "secondary", True, ""),
        api.VirtualServerDevice("w", "witness", False, "is a witness"),
    ),
    listeners=(
        api.ListenerStatus("tcp", 443, 443, "hash"),
        api.ListenerStatus("udp", 443, 8443, "source-hash"),
    ),
    gateways=(
        api.GatewayStatus("gw1", "10.77.0.31", "up", 2, 120),
        api.GatewayStatus("gw2", "10.77.0.32", "up", 1, 61),
    ),
)

WEB = api.VirtualServerStatus(
    name="web",
    vips=("10.77.0.101/24",),
    state="degraded",
    primary="b",
    term=2,
    since="2025-05-01T12:59:15Z",
    profile="fast",
    devices=(
        api.VirtualServerDevice("b", "primary", True, ""),
        api.VirtualServerDevice("a", "secondary", False, "cannot apply revision 3.17: disk full"),
    ),
    listeners=(api.ListenerStatus("tcp", 80, 80, "hash"),),
    gateways=(
        api.GatewayStatus("gw1", "10.77.0.31", "up", 1, 9),
        api.GatewayStatus("gw3", "10.77.0.33", "down", 1, 0, "connection refused"),
        api.GatewayStatus("gw4", "10.77.0.34", "draining", 1, -1),
    ),
    reasons=("gateway gw3 is down: connection refused",),
)

MAIL = api.VirtualServerStatus(
    name="mail",
    vips=("10.77.0.102/24",),
    state="down",
    primary=None,
    term=7,
    since=None,
    profile="wan",
    devices=(),
    listeners=(api.ListenerStatus("tcp", 25, 25, "hash"),),
    gateways=(),
    reasons=("no majority of its voters answers",),
)

BUSY = api.Status(
    site="paris",
    revision="3.17",
    device="a",
    coordinator="b",
    virtual_servers=(MAIL, RDP, WEB),
    devices=(
        api.DeviceStatus(
            name="a",
            id="0123456789abcdef",
            addresses=("10.77.0.1:7480", "10.78.0.1:7480"),
            state="alive",
            version="0.1.0",
            drained=False,
            witness=False,
            revision="3.17",
            primary_of=1,
        ),
        api.DeviceStatus(
            name="b",
            id="123456789abcdef0",
            addresses=("10.77.0.2:7480",),
            state="alive",
            version="0.1.0",
            drained=True,
            witness=False,
            revision="3.16",
            primary_of=1,
        ),
        api.DeviceStatus(
            name="w",
            id="23456789abcdef01",
            addresses=("10.77.0.3:7480",),
            state="dead",
            version="0.1.0",
            drained=False,
            witness=True,
            revision="3.12",
            primary_of=0,
        ),
    ),
    warnings=("the lease of web is not enforced by the kernel of device b (5.10)",),
    took_us=412,
)

NOW = 1746104400.0
"""2025-05-01 13:00:00Z."""

HISTORY = api.History(
    (
        api.HistoryEntry(
            at=1746093600123,
            kind="takeover",
            virtual_server="rdp",
            uid=None,
            device="a",
            reporter="a",
            term=4,
            text="b fell silent",
            timeline={
                "detection": 251.2,
                "election": 31.9,
                "lease": 0.41,
                "announcement": 3.2,
                "total": 286.7,
            },
        ),
        api.HistoryEntry(
            at=1746093700000,
            kind="drained",
            virtual_server="",
            uid=None,
            device="b",
            reporter="b",
            term=0,
            text="by an operator",
        ),
    )
)

DOCUMENT: dict[str, object] = {
    "site": "paris",
    "virtual_servers": [
        {
            "name": "rdp",
            "vips": ["10.77.0.100/24", "fd77::100/64"],
            "devices": ["a", "b"],
            "gateways": [
                {"name": "gw1", "address": "10.77.0.31", "weight": 2},
                {"name": "gw2", "address": "10.77.0.32"},
                {"name": "gw3", "address": "fd77::31"},
            ],
            "listeners": [
                {"protocol": "tcp", "port": 443, "check": {"type": "tcp", "interval": 1.0}},
                {"protocol": "udp", "port": 443, "balance": "source-hash"},
            ],
        },
        {
            "name": "web",
            "vips": ["10.77.0.101/24"],
            "listeners": [{"protocol": "tcp", "port": 80}],
        },
    ],
}
"""The Site as an agent exports it."""

DONE = api.Done("stored by 2 of 3 devices", "3.18")
