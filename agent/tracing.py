"""Which gateway a flow goes to, and why: what the kernel's rules do, followed for a person.

The order is that of the packet: an entry of the flow decides before any rule,
then a sticky client's memory, then the policy, then who has room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from agent.conntrack import gateway_of
from agent.distribution import AT_REST, Moment, Selector, candidates, chain_of, selector
from agent.forwarding import memoryless, serving
from agent.gated import numbers, sticky_map
from agent.jhash import slot_of, source_key
from agent.ruleset import Desired
from agent.staying import amid, before, earlier
from protocol import api
from protocol.addresses import check_gateway_address
from protocol.clients import Client
from protocol.durations import say
from protocol.errors import InvalidInput, Refused
from protocol.objects import PURE, SLOTS, Gateway, Listener, VirtualServer
from protocol.validate import check_port


@dataclass(frozen=True)
class Question:
    """A flow: of a client, to a listener."""

    client: str
    port: int
    server: VirtualServer
    listener: Listener
    vip: str
    vip_port: int
    others: tuple[str, ...] = ()
    """Further VIPs of its IP version: the flow may be to one of these."""

    @property
    def memory(self) -> str:
        """Name of the map that would remember the client."""
        return sticky_map(chain_of(self.server, self.listener, self.version))

    @property
    def version(self) -> int:
        return ip_address(self.client).version


class Entry(NamedTuple):
    """What the connection table has for a flow."""

    vip: str
    gateway: str
    """Address of it."""


@dataclass(frozen=True)
class Evidence:
    """What this device's kernel knows of it."""

    desired: Desired
    """What is in force."""
    entry: Entry | None = None
    sticky: Client | None = None


@dataclass(frozen=True)
class Answer:
    """Where the flow goes; no gateway where only the next packet decides, or nobody takes it."""

    how: str
    """connection | sticky | only | slot | turn | overflow | refused"""
    gateway: Gateway | None
    slot: int | None
    why: tuple[str, ...]
    vip: str | None = None
    """The VIP that a connection is to, where there is one."""


def question_of(op: api.Trace, server: VirtualServer, desired: Desired) -> Question:
    """The flow that an operator asks about; raises InvalidInput or Refused with the remedy."""
    client = check_gateway_address("client", op.client)
    check_port("port", op.port)
    if server.uid not in {vs.uid for vs in desired.virtual_servers}:
        raise Refused(
            f"this device does not carry Virtual Server {server.name!r}",
            "Ask one that does: `halbctl vs show` names them.",
        )
    version = ip_address(client).version
    assigned = serving(server, desired.vips.get(server.uid, ()))
    vips = tuple(vip for vip in assigned if ip_address(vip).version == version)
    if not vips:
        raise InvalidInput(
            f"Virtual Server {server.name!r} has no VIP of IPv{version}",
            f"Name a client with an address of IPv{4 if version == 6 else 6}.",
        )
    fitting = [
        item
        for item in server.listeners
        if op.protocol in (None, item.protocol)
        and (op.listener is None or item.ports[0] <= op.listener <= item.ports[1])
    ]
    protocols = {item.protocol for item in fitting}
    if len(protocols) == 2:
        fitting = [item for item in fitting if item.protocol == "tcp"]
    # One with a single port comes before ranges, as in the kernel.
    fitting.sort(key=lambda item: item.ports[1] - item.ports[0])
    if not fitting or (op.listener is None and len(fitting) > 1):
        known = ", ".join(item.key for item in server.listeners)
        if not known:
            raise InvalidInput(
                f"Virtual Server {server.name!r} has no listener",
                f"Give it one: `halbctl vs edit {server.name} --tcp PORT`.",
            )
        raise InvalidInput(
            f"{op.listener or 'no port'} does not name one listener of {server.name!r}",
            f"Write {server.name}:PORT; its listeners are {known}.",
        )
    listener = fitting[0]
    return Question(
        client, op.port, server, listener, vips[0], op.listener or listener.port, vips[1:]
    )


def entry_of(question: Question) -> Entry | None:
    """What the connection table has for the flow, to any of the VIPs."""
    protocol = question.listener.protocol
    for vip in (question.vip, *question.others):
        found = gateway_of(protocol, question.client, question.port, vip, question.vip_port)
        if found is not None:
            return Entry(vip, found)
    return None


def trace(question: Question, evidence: Evidence) -> Answer:
    """Follow the flow through the rules."""
    server, listener, desired = question.server, question.listener, evidence.desired
    by_address = {g.address: g for g in server.gateways}
    if evidence.entry is not None:
        vip, address = evidence.entry
        found = by_address.get(address)
        name = f"gateway {found.name}" if found else f"{address}, no gateway any more"
        to = "" if vip == question.vip else f" to {vip}"
        why = [f"the connection{to} exists: its entry leads to {name}"]
        return Answer("connection", found, None, tuple(why), vip)
    why = ["no connection entry: the rules for a new flow decide", *_older(question, desired)]
    usable = candidates(server, question.version, desired.down)
    if not usable:
        return Answer("refused", None, None, (*why, _nobody(server, question.version)))
    if usable[0].backup:
        why.append("only backup gateways can take it")
    full = [g.name for g in usable if (server.uid, g.name) in desired.moment.full]
    if full:
        why.append(f"full: {', '.join(full)}")
    room = [g for g in usable if g.name not in full]
    if listener.sticky:
        kept, said = _kept(question, evidence, room)
        why.append(said)
        if kept is not None:
            return Answer("sticky", kept, None, tuple(why))
    if len(usable) == 1 and room:
        why.append(f"{room[0].name} is the only gateway that can take it")
        return Answer("only", room[0], None, tuple(why))
    slots = selector(server, listener, question.version, usable, desired.moment)
    return _by_policy(question, slots, room, tuple(why), desired.moment)


def _older(question: Question, desired: Desired) -> Iterator[str]:
    """Where the flow goes if it began before slots moved, and nothing remembers it."""
    vips = (question.vip, *question.others)
    for server in desired.virtual_servers:
        for listener in server.listeners:
            if (server.uid, listener.key) != (question.server.uid, question.listener.key):
                continue
            forgetful = server.forwarding == "dsr" or memoryless(server, listener, vips)
            former = before(server)
            able = candidates(former, question.version, desired.gone)
            if not (forgetful and amid(server, listener, question.version) and able):
                continue
            hashed = earlier(listener)
            found = selector(former, hashed, question.version, able, AT_REST)
            gateway = _of_slot(found, _slot(question, hashed), server.gateways)
            yield f"slots move: if it is open, and began before that, it stays at {gateway.name}"


def _slot(question: Question, listener: Listener) -> int:
    """The flow's slot, as the listener shares flows."""
    port = None if listener.balance == "source-hash" else question.port
    return slot_of(source_key(question.client, port), question.server.seed, SLOTS)


def _of_slot(found: Selector, slot: int, gateways: tuple[Gateway, ...]) -> Gateway:
    return next(g for g in gateways if g.address == found.slots[slot])


def _by_policy(
    question: Question, found: Selector, room: list[Gateway], why: tuple[str, ...], moment: Moment
) -> Answer:
    server, listener = question.server, question.listener
    if not room:
        return Answer("refused", None, None, (*why, "no gateway has room"))
    if listener.balance not in PURE and listener.balance != "least-connections":
        shares = _shares(found, server.gateways)
        word = "whose turn it is" if listener.balance == "round-robin" else "drawn at random"
        return Answer("turn", None, None, (*why, f"{listener.balance}: {word} of {shares}"))
    slot = _slot(question, listener)
    gateway = _of_slot(found, slot, server.gateways)
    key = "client address" if listener.balance == "source-hash" else "client address and port"
    parts = [f"{listener.balance}: the {key} fall into slot {slot} of {SLOTS}, {gateway.name}'s"]
    if moment.growing or (listener.balance == "least-connections" and moment.leaning):
        parts.append(f"slots now: {_shares(found, server.gateways)}")
    if gateway not in room:
        names = ", ".join(g.name for g in room)
        parts.append(f"{gateway.name} is full: goes to any of {names}")
        only = room[0] if len(room) == 1 else None
        return Answer("overflow", only, slot, (*why, *parts))
    return Answer("slot", gateway, slot, (*why, *parts))


def _kept(
    question: Question, evidence: Evidence, room: list[Gateway]
) -> tuple[Gateway | None, str]:
    """The gateway that a sticky client keeps, and what to say about it."""
    client = evidence.sticky
    if client is None:
        return None, "sticky: this client is not remembered"
    known = numbers(question.server)
    found = next((g for g in question.server.gateways if known[g.address] == client.number), None)
    left = say(client.left_ms // 1000)
    if found is None:
        return None, f"sticky: kept for {left} more, but its gateway is gone"
    if found not in room:
        return None, f"sticky: kept at {found.name} for {left} more, but that takes nothing now"
    return found, f"sticky: the client keeps {found.name} for {left} more"


def _nobody(server: VirtualServer, version: int) -> str:
    some = [g.name for g in server.gateways if ip_address(g.address).version == version]
    if not some:
        return f"refused at once: no gateway has an IPv{version} address"
    return f"refused at once: none of {', '.join(some)} takes flows now"


def _shares(found: Selector, gateways: tuple[Gateway, ...]) -> str:
    names: Mapping[str, str] = {g.address: g.name for g in gateways}
    whole = len(found.slots)
    parts = {names[a]: found.slots.count(a) for a in dict.fromkeys(sorted(found.slots))}
    return ", ".join(f"{name} {100 * count / whole:.0f} %" for name, count in parts.items())
