"""Parts of a Virtual Server as written on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from protocol.durations import parse_seconds
from protocol.errors import InvalidInput
from protocol.gateway_document import GatewayDocument
from protocol.listener_document import ListenerDocument
from protocol.objects import Balance, Check
from protocol.ports import ALL

T = TypeVar("T", bound=str)


def parse_gateway(text: str) -> GatewayDocument:
    """``NAME=ADDRESS``, ``NAME=ADDRESS:WEIGHT``; an IPv6 address with weight in brackets."""
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise _gateway(text, "is not NAME=ADDRESS[:WEIGHT]")
    if rest.startswith("["):
        address, bracket, weight = rest[1:].partition("]")
        if not bracket or (weight and not weight.startswith(":")):
            raise _gateway(text, "has brackets that do not enclose its address")
        weight = weight[1:] if weight else "1"
    elif rest.count(":") > 1:
        address, weight = rest, "1"
    else:
        address, colon, weight = rest.partition(":")
        weight = weight if colon else "1"
    if not (weight.isascii() and weight.isdigit() and len(weight) < 10):
        raise _gateway(text, f"has {weight!r} for a weight")
    return GatewayDocument(name=name, address=address, weight=int(weight))


def _gateway(text: str, wrong: str) -> InvalidInput:
    return InvalidInput(
        f"gateway {text!r} {wrong}", "Write gw1=10.77.0.31, gw1=10.77.0.31:2 or gw1=[fd77::31]:2."
    )


def parse_listener(protocol: Literal["tcp", "udp"], text: str, check: bool) -> ListenerDocument:
    """``PORT``, ``FIRST-LAST``, ``all``, or ``PORT:GATEWAY_PORT`` where gateways use another."""
    port, colon, gateway_port = text.partition(":")
    parts = [port] if port == ALL else port.split("-", 1)
    numbers = [*(p for p in parts if p != ALL), *([gateway_port] if colon else ())]
    if not all(n.isascii() and n.isdigit() and len(n) < 10 for n in numbers):
        raise InvalidInput(
            f"--{protocol} {text!r} is not a port",
            "Write 443, 443:8443 (gateways use 8443), 3000-3010 or all.",
        )
    return ListenerDocument(
        protocol=protocol,
        port=int(port) if port.isdigit() else port,
        gateway_port=int(gateway_port) if colon else None,
        check=Check(type="tcp" if check else "none") if protocol == "tcp" and port != ALL else None,
    )


def parse_client(text: str) -> tuple[str, int]:
    """``ADDRESS:PORT``; an IPv6 address in brackets."""
    address, colon, port = text.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    number = _port(port)
    if not (colon and address) or number is None or (":" in address and not bracketed):
        raise InvalidInput(
            f"{text!r} is not CLIENT:PORT", "Write 192.0.2.7:51000 or [2001:db8::7]:51000."
        )
    return (address[1:-1] if bracketed else address), number


def parse_target(text: str) -> tuple[str, int | None]:
    """``VS`` or ``VS:PORT``; no name of a Virtual Server has a colon."""
    name, colon, port = text.partition(":")
    number = _port(port)
    if not name or (colon and number is None):
        raise InvalidInput(f"{text!r} is not VS[:PORT]", "Write web or web:443.")
    return name, number


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def seconds(option: str, text: str) -> int:
    """Seconds that a duration says; 0 for ``no``."""
    return 0 if text == "no" else parse_seconds(option, text)


def shared(
    listeners: Iterable[ListenerDocument], balance: Balance | None, sticky: str | None
) -> tuple[ListenerDocument, ...]:
    """``listeners``, all with this policy and stickiness where given; ``no`` is 0 seconds."""
    import msgspec

    said: dict[str, object] = {} if balance is None else {"balance": balance}
    if sticky is not None:
        said["sticky"] = seconds("--sticky", sticky)
    return tuple(msgspec.structs.replace(item, **said) for item in listeners)


def one_of_two(old: T | None, given: T | Literal["no"] | None, other: str | None) -> T | None:
    """``given`` in place of the ``old``, which ``no`` takes back and the ``other`` replaces."""
    if given == "no":
        return None
    return given or (old if other in (None, "no") else None)


def inner_vips(
    old: tuple[str, ...], forwarding: str | None, given: Sequence[str] | None
) -> tuple[str, ...]:
    """``given``, or none for ``no``, in place of the ``old``, which a mode without takes along."""
    if given is not None:
        return listed(old, given, "no")
    return () if forwarding in ("snat", "dsr") else old


def listed(old: tuple[str, ...], given: Sequence[str] | None, none: str) -> tuple[str, ...]:
    """``given`` in place of the ``old``; the word ``none`` alone is the empty list."""
    if given is None:
        return old
    return () if list(given) == [none] else tuple(given)


def replace_listeners(
    old: Sequence[ListenerDocument],
    tcp: Sequence[str] | None,
    udp: Sequence[str] | None,
    *,
    check: bool = True,
) -> tuple[ListenerDocument, ...]:
    """``old`` with all of a protocol replaced where given; what stays keeps all else.

    ``no`` alone is none of that protocol; ``check``: whether new ones of TCP are checked.
    """
    import msgspec

    found: list[ListenerDocument] = []
    known = {item.key: item for item in old}
    protocols: tuple[tuple[Literal["tcp", "udp"], Sequence[str] | None], ...]
    protocols = (("tcp", tcp), ("udp", udp))
    for protocol, texts in protocols:
        if texts is None:
            found += [item for item in old if item.protocol == protocol]
            continue
        for text in listed((), texts, "no"):
            item = parse_listener(protocol, text, check)
            before = known.get(item.key)
            if before is not None:
                item = msgspec.structs.replace(before, gateway_port=item.gateway_port)
            found.append(item)
    return tuple(found)
