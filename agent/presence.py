"""Whether the network agrees that our VIPs are here: refreshed, verified, defended.

An announcement is a frame that may be lost, and a cache may forget or be told
otherwise. So while this device holds VIPs it announces them again each
:data:`REFRESH_S`, asks the neighbours each time whether they have learnt, asks the
segment whether anybody else has the VIP, and hears who claims it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from random import Random
from typing import Protocol

from agent.announce import Announcer
from agent.clock import boottime
from agent.owners import Owner, Owners
from agent.ping import Pinger
from agent.takeover import Pair, Takeovers, Verdict
from protocol.effects import Event
from protocol.errors import HalbError
from protocol.ids import GroupId
from protocol.timing import SECOND

REFRESH_S = 30.0
"""Between two announcements of a VIP that stays. Caches live longer: Linux asks anew about a
neighbour in use after 15 to 45 s, routers keep an entry for minutes to hours."""
SPREAD = 0.2
"""Each is earlier or later by up to this share."""
FIRST_S = 0.01
"""After an announcement, before the first question."""
SPACING_S = 0.0002
"""Between the first questions of two groups that come at the same time."""
MAX_PAIRS = 64
"""Questions about one group in one round."""
MAX_NAMED = 3
"""Foreign owners of one VIP that warnings name: those heard last."""

_log = logging.getLogger("halb.presence")


class PresenceNews(Protocol):
    """Who is told."""

    def on_event(self, event: Event) -> None:
        """Take an alarm, or the end of one."""

    def on_verified(self, group: GroupId, took_ns: int) -> None:
        """So long after a takeover's announcement the last neighbour had learnt."""


class Presence:
    """Of all groups that this device holds. Belongs to the loop's thread."""

    def __init__(
        self,
        interface: str,
        announcer: Announcer,
        random: Random,
        neighbours: Callable[[GroupId], Sequence[str]],
        news: PresenceNews,
        virtual: Callable[[str], bytes | None],
    ) -> None:
        """``neighbours`` of a group, the most important first, by address.

        ``virtual(vip)`` is the virtual MAC of one that has it.
        """
        self._announcer = announcer
        self._random = random
        self._neighbours = neighbours
        self._news = news
        self._loop = asyncio.get_running_loop()
        self._vips: dict[GroupId, tuple[str, ...]] = {}
        self._timers: dict[GroupId, asyncio.TimerHandle] = {}
        self._stale: dict[GroupId, tuple[Pair, ...]] = {}
        self._holding: asyncio.TimerHandle | None = None
        self._new: set[GroupId] = set()
        """Groups whose takeover was not verified yet."""
        self._pinger = Pinger(interface, self._on_reply)
        self._takeovers = Takeovers(self._pinger.ask, self._insist, self._on_verdict)
        self._owners = Owners(interface, self._defend, self._on_owner, virtual)

    def held(self, group: GroupId, vips: Sequence[str]) -> None:
        """``vips`` of a group were opened, and are being announced."""
        self._vips[group] = tuple(vips)
        self._new.add(group)
        self._takeovers.end(group)
        self._hold_soon()
        # Not now: of a thousand groups that come at once, the last is announced first of all.
        soon = FIRST_S + SPACING_S * len(self._vips)
        self._at(group, soon, self._after_takeover, group, boottime())

    def left(self, group: GroupId, vips: Sequence[str]) -> None:
        """This device holds only these of the group's VIPs any more."""
        self._takeovers.end(group)
        if vips:
            self._vips[group] = tuple(vips)
        else:
            self._vips.pop(group, None)
            self._stale.pop(group, None)
            self._new.discard(group)
            timer = self._timers.pop(group, None)
            if timer is not None:
                timer.cancel()
        self._hold_soon()

    def warnings(self, name: Callable[[GroupId], str]) -> Iterator[str]:
        """What an operator should know, a sentence each."""
        now = boottime()
        present: dict[str, list[Owner]] = {}
        for owner in sorted(self._owners.present(), key=lambda owner: -owner.last):
            present.setdefault(owner.vip, []).append(owner)
        for vip, owners in present.items():
            for owner in owners[:MAX_NAMED]:
                ago = (now - owner.last) // SECOND
                yield (
                    f"{self._name_of(vip, name)}: another host, {owner.mac}, says that"
                    f" {vip} is its own (heard {ago} s ago); find it and take the address off it"
                )
            if (more := len(owners) - MAX_NAMED) > 0:
                yield f"{self._name_of(vip, name)}: {more} other addresses claim {vip}, too"
        for group, pairs in self._stale.items():
            yield f"{name(group)}: {_stale_text(pairs)}; announced again each {REFRESH_S:g} s"

    def _name_of(self, vip: str, name: Callable[[GroupId], str]) -> str:
        group = self._group_of(vip)
        return vip if group is None else name(group)

    def _group_of(self, vip: str) -> GroupId | None:
        return next((g for g, vips in self._vips.items() if vip in vips), None)

    def _all(self) -> list[str]:
        return [vip for vips in self._vips.values() for vip in vips]

    def _hold_soon(self) -> None:
        if self._holding is None:
            self._holding = self._loop.call_later(FIRST_S, self._hold)

    def _hold(self) -> None:
        self._holding = None
        self._owners.hold(self._all())

    def _at(
        self, group: GroupId, seconds: float, do: Callable[..., None], *arguments: object
    ) -> None:
        """Do something about a group later, in place of what was to be done."""
        old = self._timers.pop(group, None)
        if old is not None:
            old.cancel()
        self._timers[group] = self._loop.call_later(seconds, do, *arguments)

    def _next_refresh(self, group: GroupId) -> None:
        spread = 1 + SPREAD * (2 * self._random.random() - 1)
        self._at(group, REFRESH_S * spread, self._refresh, group)

    def _after_takeover(self, group: GroupId, announced: int) -> None:
        self._next_refresh(group)
        self._verify(group, announced)

    def _refresh(self, group: GroupId) -> None:
        self._next_refresh(group)
        self._hold_soon()
        try:
            self._announcer.announce(self._vips[group])
            for vip in self._vips[group]:
                self._announcer.ask(vip)
        except HalbError as error:
            _log.warning("cannot announce %s again: %s", group, error.message)
            return
        self._verify(group, boottime())

    def _verify(self, group: GroupId, announced: int) -> None:
        self._pinger.follow()
        around = [(each, ip_address(each).version) for each in self._neighbours(group)]
        pairs = [
            (vip, neighbour)
            for neighbour, version in around
            for vip in self._vips[group]
            if ip_address(vip).version == version
        ]
        # With very many groups at once, the router and the next one must do.
        share = max(2, 1024 // len(self._vips))
        self._takeovers.begin(group, pairs[: min(MAX_PAIRS, share)], announced)

    def _on_reply(self, number: int) -> None:
        self._takeovers.answered(number)

    def _insist(self, vip: str, neighbour: str) -> None:
        try:
            self._announcer.announce([vip])
            self._announcer.insist(vip, neighbour)
        except HalbError as error:
            _log.warning("cannot announce %s: %s", vip, error.message)

    def _on_verdict(self, verdict: Verdict) -> None:
        group = verdict.group
        if group in self._new and verdict.learnt and not verdict.stale:
            self._new.discard(group)
            self._news.on_verified(group, verdict.took_ns)
        before = self._stale.pop(group, ())
        if verdict.stale:
            self._stale[group] = verdict.stale
        if verdict.stale and verdict.stale != before:
            self._news.on_event(Event("not-learnt", group, _stale_text(verdict.stale)))
        elif before and not verdict.stale:
            self._news.on_event(
                Event("learnt", group, "all neighbours have learnt where its VIPs are")
            )

    def _defend(self, vip: str) -> None:
        try:
            self._announcer.announce([vip])
        except HalbError as error:
            _log.warning("cannot defend %s: %s", vip, error.message)

    def _on_owner(self, owner: Owner) -> None:
        text = f"another host, {owner.mac}, says that {owner.vip} is its own; announced again"
        self._news.on_event(Event("foreign-owner", self._group_of(owner.vip), text))

    def close(self) -> None:
        for timer in (*self._timers.values(), *filter(None, [self._holding])):
            timer.cancel()
        self._takeovers.close()
        self._owners.close()
        self._pinger.close()


def _stale_text(pairs: Sequence[Pair]) -> str:
    listed = ", ".join(f"{neighbour} (for {vip})" for vip, neighbour in pairs[:4])
    more = f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""
    return f"neighbours send packets elsewhere: {listed}{more}"
