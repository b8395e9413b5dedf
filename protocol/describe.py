"""What an edit does to a configuration, in lines for people.

``+`` is new, ``-`` goes away, ``~`` changes, as in
``~ gateway rdp/gw1 weight 1 -> 3``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from protocol.config import Config, Edit
from protocol.durations import say, utc
from protocol.health import OF_TYPE, check_for
from protocol.ids import DeviceId, GroupId
from protocol.objects import (
    Assignment,
    Check,
    Device,
    Gateway,
    Handled,
    Key,
    Listener,
    Operator,
    PlannedMove,
    SiteRecord,
    Token,
    Value,
    VirtualServer,
    key_of,
)
from protocol.settling import outlived
from protocol.shown import shown

T = TypeVar("T")
Fields = dict[str, str]
"""What is said of a thing, by the name of the field."""


def describe(config: Config, edit: Edit, *, emptied: bool = False) -> tuple[str, ...]:
    """One line for each thing that ``edit`` adds, removes or changes; none if nothing.

    ``emptied``: who asked has made sure that no gateway that goes away has tracked connections.
    """
    lines: list[str] = []
    names = {d.id: d.name for d in config.devices.values()}
    names |= {v.id: v.name for v in edit.put if isinstance(v, Device)}
    servers = {v.uid: v.name for v in config.virtual_servers.values()}
    servers |= {v.uid: v.name for v in edit.put if isinstance(v, VirtualServer)}
    for value in edit.put:
        title = _title(value, servers)
        lines += _changed(title, _present(config, key_of(value)), value, names, emptied=emptied)
    for key in edit.delete:
        present = _present(config, key)
        if present is not None:
            lines.append(f"- {_title(present, servers)}")
    return tuple(lines)


def _present(config: Config, key: Key) -> Value | None:
    record = config.records.get(key)
    return record.value if record else None


def _title(value: Value, servers: dict[GroupId, str]) -> str:
    match value:
        case SiteRecord():
            return f"site {value.name}"
        case Device():
            return f"device {value.name}"
        case Token():
            return f"token {value.id}"
        case VirtualServer():
            return f"virtual server {value.name}"
        case Assignment():
            return f"assignment of {servers.get(value.uid, value.uid)}"
        case Handled():
            return f"request {value.id}"
        case PlannedMove():
            return f"planned move of {servers.get(value.uid, value.uid)}"
        case Operator():
            return f"operator {value.name}"


def _changed(
    title: str, old: Value | None, new: Value, names: dict[DeviceId, str], *, emptied: bool
) -> Iterator[str]:
    if old is None and isinstance(new, VirtualServer):
        usual = _fields(VirtualServer(uid=new.uid, name=new.name, vips=(), seed=0), names)
        special = [f"{k} {v}" for k, v in _fields(new, names).items() if v != usual[k]]
        yield " ".join((f"+ {title}", *special))
    elif old is None:
        yield f"+ {title}"
    else:
        before, after = _fields(old, names), _fields(new, names)
        fate = _fate(old, new)
        for line in _differences(before, after):
            yield f"~ {title} {line}{fate if line.startswith('forwarding ') else ''}"
    if isinstance(new, VirtualServer):
        kept = "" if emptied else _LEFT
        gone = kept if new.forwarding == "snat" else _CUT
        yield from _parts_changed(old if isinstance(old, VirtualServer) else None, new, gone)


def _fate(old: Value, new: Value) -> str:
    """What becomes of open connections, where the mode of forwarding changes."""
    if not (isinstance(old, VirtualServer) and isinstance(new, VirtualServer)):
        return ""
    return ": open connections go on" if outlived(old, new) else ": open connections are lost"


def _fields(value: Value, names: dict[DeviceId, str]) -> Fields:
    """What may change of a value, except the parts of a Virtual Server."""

    def named(ids: Iterable[DeviceId], none: str) -> str:
        return ", ".join(names.get(i, i) for i in ids) or none

    match value:
        case SiteRecord():
            return {
                "name": value.name,
                "voters": named(value.voters, "none"),
                "protocol": str(value.protocol),
            }
        case Device():
            return {
                "name": value.name,
                "addresses": ", ".join(value.addresses),
                "drained": _yes(value.drained),
            }
        case Token():
            return {"uses left": str(value.uses_left)}
        case VirtualServer():
            return {
                "devices": named(value.devices, "all"),
                "witnesses": named(value.witnesses, "none"),
                "arbiter": value.arbiter or "none",
                "on_peer_loss": value.on_peer_loss or "none",
                "wait_for_peer": _yes(value.wait_for_peer),
                "profile": value.profile.value,
                "forwarding": value.forwarding,
                "virtual_mac": value.virtual_mac or "none",
                "preempt": f"after {say(value.preempt)}" if value.preempt else "never",
                "slow_start": say(value.slow_start) if value.slow_start else "none",
                "frozen": _yes(value.frozen),
            }
        case Assignment():
            return {
                "voters": named(value.voters, "none"),
                "voters before": named(value.former, "none"),
                "vips": ", ".join(value.vips),
            }
        case Handled():
            return {"detail": value.detail}
        case PlannedMove():
            to = "the next in rank" if value.to is None else named((value.to,), "")
            return {"to": to, "at": utc(value.at)}
        case Operator():
            return {"public key": value.public_key}


_LEFT = ": connections that it still has go on"
_CUT = ": connections that it still has may be reset"
"""What becomes of the connections of a gateway that is removed."""
_USUAL = ("no", "any")
"""Of what is new, not said: it has no limit, and is nothing special."""


def _parts_changed(old: VirtualServer | None, new: VirtualServer, gone: str) -> Iterator[str]:
    name = new.name
    yield from _compared(
        f"vip {name} ", old.vips if old else (), new.vips, lambda v: v, lambda _: {}
    )
    yield from _compared(
        f"inner vip {name} ",
        old.inner_vips if old else (),
        new.inner_vips,
        lambda v: v,
        lambda _: {},
    )
    yield from _compared(
        f"gateway {name}/",
        old.gateways if old else (),
        new.gateways,
        lambda g: g.name,
        _gateway,
        gone=gone,
    )
    yield from _compared(
        f"listener {name}/", old.listeners if old else (), new.listeners, lambda i: i.key, _listener
    )


def _compared(
    title: str,
    old: Iterable[T],
    new: Iterable[T],
    key: Callable[[T], str],
    fields: Callable[[T], Fields],
    gone: str = "",
) -> Iterator[str]:
    before, after = {key(o): o for o in old}, {key(n): n for n in new}
    for name, item in after.items():
        if name not in before:
            special = ((k, v) for k, v in fields(item).items() if v not in _USUAL)
            said = " ".join(f"{k} {v}" for k, v in special)
            yield f"+ {title}{name} {said}".rstrip()
            continue
        for line in _differences(fields(before[name]), fields(item)):
            yield f"~ {title}{name} {line}"
    for name in before:
        if name not in after:
            yield f"- {title}{name}{gone}"
    if _reordered(list(before), list(after)):
        yield f"~ {title.rstrip('/ ')} order {', '.join(before)} -> {', '.join(after)}"


def _reordered(before: list[Hashable], after: list[Hashable]) -> bool:
    """Whether what both have stands in another order."""
    return [b for b in before if b in after] != [a for a in after if a in before]


def _gateway(gateway: Gateway) -> Fields:
    return {
        "address": gateway.address,
        "weight": str(gateway.weight),
        "state": gateway.state,
        "backup": _yes(gateway.backup),
        "max_connections": str(gateway.max_connections or "any"),
        "drain_until": "no" if gateway.drain_until is None else utc(gateway.drain_until),
    }


def _listener(listener: Listener) -> Fields:
    return {
        "gateway port": "the same" if listener.last_port else str(listener.gateway_port),
        "balance": listener.balance,
        "sticky": say(listener.sticky) if listener.sticky else "no",
        "client_connections": str(listener.client_connections or "any"),
        "client_rate": f"{listener.client_rate}/s" if listener.client_rate else "any",
        "check": _check(listener),
        "passive": _yes(listener.passive),
    }


def _check(listener: Listener) -> str:
    check = listener.check
    if check is None:
        return "as usual" if check_for(listener) else "that of other listeners"
    if check.type == "none":
        return "none"
    port = "" if check.port is None else f" port {check.port}"
    return (
        f"{check.type}{port} every {check.interval:g} s, timeout {check.timeout:g} s, "
        f"fall {check.fall}, rise {check.rise}{_special(check)}"
    )


def _special(check: Check) -> str:
    """What of a check is not as usual for its type."""
    usual = Check()
    fields = (
        field for field in OF_TYPE[check.type] if getattr(check, field) != getattr(usual, field)
    )
    return "".join(f", {field} {_word(getattr(check, field))}" for field in fields)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return _yes(value)
    return " ".join(map(repr, value)) if isinstance(value, tuple) else shown(value)


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _differences(before: Fields, after: Fields) -> Iterator[str]:
    for field, value in after.items():
        if before[field] != value:
            yield f"{field} {before[field]} -> {value}"
