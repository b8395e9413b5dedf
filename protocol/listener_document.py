"""The listeners of a Virtual Server as a person writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from protocol.errors import InvalidInput
from protocol.health import check_health_check
from protocol.objects import (
    MAX_CLIENT_CONNECTIONS,
    MAX_CLIENT_RATE,
    MAX_LISTENERS,
    MAX_STICKY_S,
    Balance,
    Check,
    Listener,
)
from protocol.ports import ALL, Ports, check_ports, overlap, ports_text
from protocol.validate import check_count, check_once, check_port, check_range


class ListenerDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One protocol and port, as in :class:`protocol.objects.Listener`."""

    protocol: Literal["tcp", "udp"] = "tcp"
    port: int | str
    """A port, ``"3000-3010"`` or ``all``."""
    gateway_port: int | None = None
    """Port on the gateways; ``port`` where None."""
    balance: Balance = "hash"
    sticky: int = 0
    client_connections: int = 0
    client_rate: int = 0
    check: Check | None = None
    passive: bool = False

    @property
    def key(self) -> str:
        """As :attr:`protocol.objects.Listener.key`."""
        return f"{self.protocol}/{ports_text(self.ports)}"

    @property
    def ports(self) -> Ports:
        """First and last port; raises InvalidInput if they were not checked."""
        return check_ports("port", self.port)


def check_listeners(listeners: tuple[ListenerDocument, ...], where: str = "") -> None:
    """Check the listeners of one Virtual Server; ``where`` is put before each path."""
    check_count(f"{where}listeners", listeners, MAX_LISTENERS)
    for index, listener in enumerate(listeners):
        here = f"{where}listeners[{index}]."
        _check_ports(listener, here)
        check_range(f"{here}sticky", listener.sticky, 0, MAX_STICKY_S, "seconds")
        limit = listener.client_connections
        check_range(f"{here}client_connections", limit, 0, MAX_CLIENT_CONNECTIONS)
        check_range(f"{here}client_rate", listener.client_rate, 0, MAX_CLIENT_RATE, "a second")
        if listener.check is not None:
            check_health_check(f"{here}check", listener.check)
        if listener.passive and listener.protocol != "tcp":
            raise InvalidInput(
                f"`{here}passive` is true, but {listener.protocol} has no connections to answer",
                "Leave it out, or give the listener a `check` with a `reply`.",
            )
        if listener.passive and listener.check is not None and listener.check.type == "none":
            raise InvalidInput(
                f"`{here}passive` is true, but its gateways are not checked",
                "Leave it out, or give the `check` another type: it is what has the last word.",
            )
    keys = (item.key for item in listeners)
    check_once(f"{where}listeners", keys, "listener")
    _refuse_overlap(listeners, where)


def _check_ports(listener: ListenerDocument, here: str) -> None:
    first, last = check_ports(f"{here}port", listener.port)
    if listener.gateway_port is not None:
        check_port(f"{here}gateway_port", listener.gateway_port)
        if first != last:
            raise InvalidInput(
                f"`{here}gateway_port` is {listener.gateway_port}, but `port` is a range",
                "Leave it out: each port of a range is the same on the gateways.",
            )
    check = listener.check
    asks = check is not None and check.type != "none"
    if check is not None and asks and check.port is None and listener.port == ALL:
        raise InvalidInput(
            f"`{here}check` does not say which of all ports it asks",
            "Give it a `port` that the gateways listen on.",
        )


def _refuse_overlap(listeners: tuple[ListenerDocument, ...], where: str) -> None:
    for index, listener in enumerate(listeners):
        for other in listeners[:index]:
            if listener.protocol == other.protocol and overlap(listener.ports, other.ports):
                raise InvalidInput(
                    f"`{where}listeners[{index}]` is {listener.key}, which has ports in common "
                    f"with {other.key}",
                    "Give each port to one listener.",
                )


def listener_of(document: ListenerDocument) -> Listener:
    """The object that a checked document describes."""
    first, last = document.ports
    return Listener(
        protocol=document.protocol,
        port=first,
        last_port=0 if first == last else last,
        gateway_port=document.gateway_port or first,
        balance=document.balance,
        sticky=document.sticky,
        client_connections=document.client_connections,
        client_rate=document.client_rate,
        check=document.check,
        passive=document.passive,
    )


def document_of_listener(listener: Listener) -> ListenerDocument:
    """The document that describes ``listener``; the inverse of :func:`listener_of`."""
    return ListenerDocument(
        protocol=listener.protocol,
        port=ports_text(listener.ports) if listener.last_port else listener.port,
        gateway_port=None if listener.gateway_port == listener.port else listener.gateway_port,
        balance=listener.balance,
        sticky=listener.sticky,
        client_connections=listener.client_connections,
        client_rate=listener.client_rate,
        check=listener.check,
        passive=listener.passive,
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
