"""The listeners of a Virtual Server as a person writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from protocol.health import check_health_check
from protocol.objects import (
    MAX_CLIENT_RATE,
    MAX_CONNECTIONS,
    MAX_LISTENERS,
    MAX_STICKY_S,
    Balance,
    Check,
    Listener,
)
from protocol.validate import check_count, check_once, check_port, check_range


class ListenerDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One protocol and port, as in :class:`protocol.objects.Listener`."""

    protocol: Literal["tcp", "udp"] = "tcp"
    port: int
    gateway_port: int | None = None
    """Port on the gateways; ``port`` where None."""
    balance: Balance = "hash"
    sticky: int = 0
    client_connections: int = 0
    client_rate: int = 0
    check: Check | None = None

    @property
    def key(self) -> str:
        """As :attr:`protocol.objects.Listener.key`."""
        return f"{self.protocol}/{self.port}"


def check_listeners(listeners: tuple[ListenerDocument, ...], where: str = "") -> None:
    """Check the listeners of one Virtual Server; ``where`` is put before each path."""
    check_count(f"{where}listeners", listeners, MAX_LISTENERS)
    for index, listener in enumerate(listeners):
        here = f"{where}listeners[{index}]."
        check_port(f"{here}port", listener.port)
        if listener.gateway_port is not None:
            check_port(f"{here}gateway_port", listener.gateway_port)
        check_range(f"{here}sticky", listener.sticky, 0, MAX_STICKY_S, "seconds")
        limit = listener.client_connections
        check_range(f"{here}client_connections", limit, 0, MAX_CONNECTIONS)
        check_range(f"{here}client_rate", listener.client_rate, 0, MAX_CLIENT_RATE, "a second")
        if listener.check is not None:
            check_health_check(f"{here}check", listener.check)
    keys = (item.key for item in listeners)
    check_once(f"{where}listeners", keys, "listener")


def listener_of(document: ListenerDocument) -> Listener:
    """The object that a checked document describes."""
    return Listener(
        protocol=document.protocol,
        port=document.port,
        gateway_port=document.gateway_port or document.port,
        balance=document.balance,
        sticky=document.sticky,
        client_connections=document.client_connections,
        client_rate=document.client_rate,
        check=document.check,
    )


def document_of_listener(listener: Listener) -> ListenerDocument:
    """The document that describes ``listener``; the inverse of :func:`listener_of`."""
    return ListenerDocument(
        protocol=listener.protocol,
        port=listener.port,
        gateway_port=None if listener.gateway_port == listener.port else listener.gateway_port,
        balance=listener.balance,
        sticky=listener.sticky,
        client_connections=listener.client_connections,
        client_rate=listener.client_rate,
        check=listener.check,
    )


def render_listeners(listeners: Iterable[ListenerDocument]) -> Iterable[dict[str, object]]:
    """Listeners that always name their protocol, and of a check only what is special."""
    for listener in listeners:
        plain: dict[str, object] = {"protocol": listener.protocol, **msgspec.to_builtins(listener)}
        if listener.check is not None:
            usual = msgspec.to_builtins(Check())
            chosen = msgspec.to_builtins(listener.check)
            special = {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in chosen.items()
                if v != usual[k]
            }
            plain["check"] = {"type": listener.check.type, **special}
        yield plain
