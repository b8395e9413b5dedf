"""The listeners of a Virtual Server: found, edited, and as lines of text. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from halbctl.flags import parse_listener
from halbctl.output import Paint, table
from protocol.errors import InvalidInput
from protocol.health import OF_TYPE, check_for
from protocol.listener_document import ListenerDocument, listener_of
from protocol.nearest import nearest
from protocol.objects import Check

EVERY = "all"
PACE = ("interval", "timeout", "fall", "rise", "port")
"""Fields of a check that keep their meaning where it becomes one of another type."""


def parse(text: str) -> ListenerDocument:
    """``tcp/443``, ``tcp/443:8443``, ``udp/3000-3010``, ``tcp/all``."""
    match text.partition("/"):
        case ("tcp" | "udp" as protocol, "/", port) if port:
            return parse_listener(protocol, port, check=True)
        case _:
            raise InvalidInput(
                f"{text!r} is not a listener",
                "Write tcp/443, tcp/443:8443, udp/3000-3010 or tcp/all.",
            )


def chosen(
    listeners: Sequence[ListenerDocument], wanted: Sequence[str], vs: str
) -> list[ListenerDocument]:
    """Those of ``listeners`` that ``wanted`` names, such as ``tcp/443``, or ``all`` of them."""
    if list(wanted) == [EVERY]:
        return list(listeners)
    known = {item.key: item for item in listeners}
    if EVERY in wanted:
        raise InvalidInput(f"{EVERY!r} stands for every listener", "Leave the others out.")
    for key in wanted:
        if key not in known:
            raise InvalidInput(f"{vs!r} has no listener {key!r}", nearest(key, known))
    return [known[key] for key in dict.fromkeys(wanted)]


def edited(
    listener: ListenerDocument, fields: Mapping[str, Any], check: Mapping[str, Any]
) -> ListenerDocument:
    """``listener`` with these fields, and its check with those, each named as in a document.

    Port 0 of a check is that which the gateways serve.
    """
    changed = msgspec.structs.replace(listener, **fields)
    if not check:
        return changed
    return msgspec.structs.replace(changed, check=_checked(changed, check))


def _checked(listener: ListenerDocument, fields: Mapping[str, Any]) -> Check:
    applies = check_for(listener_of(listener))
    kind = fields.get("type")
    if kind is None and applies is None:
        raise InvalidInput(
            f"{listener.key} has no check that could be changed", "Give --check TYPE as well."
        )
    if kind == "none":
        if len(fields) > 1:
            raise InvalidInput(
                "`--check none` checks nothing, and no other option of a check means anything",
                "Leave out either.",
            )
        return Check(**fields)
    old = applies or Check()
    if fields.get("port") == 0:
        fields = {**fields, "port": None}
    # What means nothing to the new type would be refused, as nobody could say what it is for.
    kept = (*PACE, *OF_TYPE[kind or old.type])
    return Check(**{"type": old.type, **{name: getattr(old, name) for name in kept}, **fields})


def words(command: str | None) -> tuple[str, ...] | None:
    """A command's words, quoted as in a shell; None without a command."""
    if command is None:
        return None
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise InvalidInput(
            f"--check-command {command!r} cannot be taken apart: {error}", "Close each quote."
        ) from None


def as_data(listeners: Sequence[ListenerDocument]) -> list[dict[str, Any]]:
    """Listeners with all that applies to them; ``check`` is null where none does."""
    found = []
    for document in listeners:
        listener = listener_of(document)
        check = check_for(listener)
        fields = () if check is None else ("type", *PACE, *OF_TYPE[check.type])
        found.append(
            {
                "listener": document.key,
                "gateway_port": None if listener.last_port else listener.gateway_port,
                "balance": listener.balance,
                "sticky": listener.sticky,
                "client_connections": listener.client_connections,
                "client_rate": listener.client_rate,
                "passive": listener.passive,
                "check": None if check is None else {
                    name: msgspec.to_builtins(getattr(check, name)) for name in fields
                },
            }
        )  # fmt: skip
    return found


def lines(listeners: Sequence[Mapping[str, Any]], paint: Paint) -> list[str]:
    """A line for each of :func:`as_data`."""
    titles = ("LISTENER", "GATEWAY PORT", "BALANCE", "STICKY", "OF ONE CLIENT", "CHECK")
    rows = [
        (
            item["listener"],
            "" if item["gateway_port"] is None else str(item["gateway_port"]),
            item["balance"],
            f"{item['sticky']}s" if item["sticky"] else "",
            _limits(item),
            _check(item),
        )
        for item in listeners
    ]
    return table(titles, rows, paint, spare=("GATEWAY PORT", "STICKY"))


def _limits(item: Mapping[str, Any]) -> str:
    most, rate = item["client_connections"], item["client_rate"]
    return ", ".join([*([f"{most} open"] if most else ()), *([f"{rate}/s"] if rate else ())])


def _check(item: Mapping[str, Any]) -> str:
    check = item["check"]
    if check is None:
        return "none" if item["listener"].startswith("tcp/") else ""
    said = [check["type"]]
    for name in OF_TYPE[check["type"]]:
        value, usual = check[name], msgspec.to_builtins(getattr(Check(), name))
        if value != usual or name == "path":
            said.append(_said(name, value))
    if check["port"] is not None:
        said.append(f"port {check['port']}")
    said.append(f"every {check['interval']:g}s")
    return " ".join(said) + (", passive" if item["passive"] else "")


def _said(name: str, value: Any) -> str:
    match value:
        case True:
            return name
        case list():
            return shlex.join(map(str, value))
        case _ if name == "path":
            return str(value)
        case _:
            return f"{name} {value}"
