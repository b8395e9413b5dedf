"""Gateways that are down, or were: for how long, and what is to be noted of them. Pure.

Where nothing remembers a connection its slot leads it, and a gateway that goes down or comes back
moves its slots. So both are noted as a change of the configuration is (:mod:`protocol.settling`),
which the primary asks for. Each device goes by it at once, and also without a coordinator.

**A gateway that falls may live on**: an overloaded one misses checks, a switch learns anew. So for
:data:`BRIEF_S` what it has is still led there. Then it counts as dead, and what it had goes where
its slots are; whose client speaks is reset there, and connects again.

**Where local edits end** slots move back, and what the edits had noted is gone with them. So that
is noted as well.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from agent.distribution import GatewayKey, candidates, takes_flows
from protocol.addresses import family
from protocol.forwarding import hashed_by
from protocol.ids import GroupId
from protocol.objects import Former, Gateway, VirtualServer
from protocol.settling import MAX_ABSENCES, STAY_S, Absence, away, had, unnoted

BRIEF_S = 60.0
"""So long a gateway that fell may be no more than slow to answer, in seconds: a switch that works
out its tree anew takes 50, and few clients wait for longer."""
AGAIN_S = 10.0
"""Seconds until what the coordinator did not take is proposed again."""
PACE_S = 1.0
"""Seconds between two proposals: where many gateways fall, they do so one after the other."""

_Keys = frozenset[GatewayKey]


@dataclass
class _Note:
    """What the configuration does not say yet."""

    former: Former
    said: Former | None
    """What it said instead, as this was seen."""
    ends: float
    ask_at: float = 0.0


@dataclass(frozen=True)
class Sight:
    """What a device sees, and when."""

    down: _Keys
    proved: Container[GatewayKey]
    """Gateways that have been up."""
    led: Container[GroupId]
    """Virtual Servers that it is primary of."""
    now: float
    """Seconds that never decrease."""
    unix_s: float


class Absences:
    """Of one device."""

    def __init__(self, fell: Mapping[GatewayKey, float] | None = None, now: float = 0.0) -> None:
        """``fell`` says since when gateways are down that were so before the agent started."""
        self._fell = dict(fell or {})
        """Since when each gateway is down; long ago if it was found so."""
        self._lately = set(self.brief(now))
        """Those of them that were seen to fall, and are not noted as gone."""
        self._notes: dict[GatewayKey, _Note] = {}
        self._served: dict[GroupId, VirtualServer] = {}
        """As they were at the last look."""
        self._ask_at = 0.0

    def observe(self, servers: Iterable[VirtualServer], sight: Sight) -> tuple[VirtualServer, ...]:
        """``servers`` with notes of their gateways that are down, or were."""
        servers, found = tuple(servers), []
        self._follow(servers, sight)
        watched: set[GatewayKey] = set()
        concerned = {uid for uid, _ in (*sight.down, *self._fell, *self._notes)}
        for vs in servers:
            if vs.uid not in concerned or not _forgets(vs):
                found.append(vs)
                continue
            some = {g.name: g for g in vs.gateways if g.state != "disabled"}
            watched.update((vs.uid, name) for name in some)
            self._turned(vs, some, sight)
            notes = ((name, self._noted(vs, g, sight.now)) for name, g in some.items())
            found.append(_with(vs, {name: note for name, note in notes if note is not None}))
        for each in (self._fell, self._notes):
            for key in each.keys() - watched:
                del each[key]
        self._lately &= watched
        return tuple(found)

    def _follow(self, servers: tuple[VirtualServer, ...], sight: Sight) -> None:
        """Note what gateways had whose slots move although the configuration says nothing of it."""
        for vs in servers:
            before = self._served.get(vs.uid)
            if before is None or before is vs or vs.uid not in sight.led or not _forgets(vs):
                continue
            gateways = {g.name: g for g in vs.gateways}
            for name, weight in unnoted(before, vs, sight.unix_s).items():
                if (vs.uid, name) not in self._notes:
                    self._note((vs.uid, name), gateways[name], weight, sight)
        self._served = {vs.uid: vs for vs in servers}

    def _turned(self, vs: VirtualServer, some: Mapping[str, Gateway], sight: Sight) -> None:
        """Note which of its gateways, by name, fell, are gone or came back since the last look."""
        keys = {(vs.uid, name) for name in some}
        down = sight.down.intersection(keys)
        brief = frozenset(key for key in keys if self._is_brief(key, sight.now))
        gone = (keys & self._fell.keys()) - brief
        for name, gateway in some.items():
            key = (vs.uid, name)
            known = key in self._fell
            if (key in down) is known and (not known or key in brief or key not in self._lately):
                continue
            version = family(gateway.address)
            counts = _has_slots(vs, gateway, down - {key})
            leads = counts and vs.uid in sight.led
            weight = self._had(key, gateway, sight.unix_s)
            if not known:
                lives = key in sight.proved
                self._fell[key] = sight.now if lives else sight.now - BRIEF_S
                if lives and counts:
                    self._lately.add(key)
                    self._note(key, gateway, weight, sight)
            elif key in down:
                if leads:
                    # Also for a successor that sees it up all the time.
                    self._lately.discard(key)
                    self._note(key, gateway, 0, sight)
            else:
                del self._fell[key]
                self._lately.discard(key)
                others = (g for g in some.values() if g is not gateway)
                alone = not any(
                    family(g.address) == version and (vs.uid, g.name) not in gone for g in others
                )
                if key in brief and counts:
                    self._note(key, gateway, weight, sight)
                elif key not in brief and leads and not (alone and weight == gateway.weight):
                    self._note(key, gateway, gateway.weight if alone else 0, sight)

    def _had(self, key: GatewayKey, gateway: Gateway, unix_s: float) -> int:
        note = self._notes.get(key)
        return had(gateway, unix_s) if note is None else note.former.weight

    def _note(self, key: GatewayKey, gateway: Gateway, weight: int, sight: Sight) -> None:
        """There was so much of the slots that leads what is not remembered of the gateway."""
        former = away(gateway, weight, sight.unix_s)
        if former == gateway.former:
            self._notes.pop(key, None)
        else:
            self._notes[key] = _Note(former, gateway.former, sight.now + STAY_S)

    def _noted(self, vs: VirtualServer, gateway: Gateway, now: float) -> Former | None:
        key = (vs.uid, gateway.name)
        note = self._notes.get(key)
        if note is None:
            return None
        if gateway.former != note.said or note.ends <= now:
            # The Site has spoken, or nobody has for a day.
            del self._notes[key]
            return None
        return note.former

    def brief(self, now: float) -> _Keys:
        """Gateways that are down, and may have what they had."""
        return frozenset(key for key in self._fell if self._is_brief(key, now))

    def _is_brief(self, key: GatewayKey, now: float) -> bool:
        since = self._fell.get(key)
        return since is not None and now - since < BRIEF_S

    def due(self, led: Container[GroupId], now: float) -> Iterator[Absence]:
        """What is to be asked for now, as primary of these Virtual Servers."""
        if now < self._ask_at:
            return
        waiting = (each for each in self._notes.items() if each[0][0] in led)
        due = [(key, note) for key, note in waiting if now >= note.ask_at][:MAX_ABSENCES]
        if due:
            self._ask_at = now + PACE_S
        for (group, name), note in due:
            note.ask_at = now + AGAIN_S
            yield Absence(group, name, note.former.weight)


def _forgets(vs: VirtualServer) -> bool:
    """Whether connections of a listener may be remembered by nothing."""
    return any(each.protocol == "tcp" and hashed_by(vs, each) for each in vs.listeners)


def _has_slots(vs: VirtualServer, gateway: Gateway, down: _Keys) -> bool:
    """Whether slots move as this one falls or comes back."""
    if not takes_flows(vs, gateway, down):
        return False
    return not gateway.backup or gateway in candidates(vs, family(gateway.address), down)


def _with(vs: VirtualServer, noted: Mapping[str, Former]) -> VirtualServer:
    if not noted:
        return vs
    return replace(
        vs,
        gateways=tuple(
            replace(g, former=noted[g.name]) if g.name in noted else g for g in vs.gateways
        ),
    )
