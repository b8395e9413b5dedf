"""Foreign owners of our VIPs: heard on the segment at any time, defended against, never obeyed.

While this device holds VIPs, taps hear ARP and neighbour advertisements that
claim one of them for another hardware address; packets of IPv4 pay nothing for
it. That is answered as RFC 5227, 2.4 (c) says: with one announcement, and no
second one within ten seconds, so two that defend themselves make no storm. The
VIP stays: the lease says whose it is. What is heard is an alarm until it has not
been heard for a while. A VIP's virtual MAC is that of no stranger: every device has it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent import neighbour
from agent.addresses import link
from agent.clock import boottime
from agent.tap import (
    IF_AT_LEAST,
    IF_EQUAL,
    IF_GREATER,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    NOTHING,
    RETURN,
    WHOLE,
    Step,
    choose,
    tap,
)
from protocol.errors import HalbError
from protocol.timing import SECOND

DEFEND_NS = 10 * SECOND
"""DEFEND_INTERVAL of RFC 5227: at most one announcement per VIP in so long."""
CONFIRM_S = 0.5
"""A claim counts if this device still holds the VIP so long after it."""
GRACE_NS = SECOND
"""After the lease was opened, frames of the predecessor may still arrive."""
FRESH_NS = 90 * SECOND
"""An owner that has not been heard for so long is gone. It is asked for every half minute."""
SAY_NS = 600 * SECOND
"""The same owner is remembered in the history once in so long."""
MAX_FRAMES = 64
"""Frames read in one pass of the loop."""
MAX_PER_SECOND = 512
"""After so many frames in a second nothing is read for the rest of it."""
MAX_OWNERS = 64
MAX_TOLD = 8
"""Owners of one VIP that are remembered in the history in :data:`SAY_NS`: whoever claims it from
ever new addresses would leave nothing else in it."""

_KIND = {4: neighbour.ETH_ARP, 6: neighbour.ETH_IPV6}
"""Frames with claims of addresses of an IP version."""
_BUFFER = 256
_log = logging.getLogger("halb.owners")

Address = IPv4Address | IPv6Address


@dataclass
class Owner:
    """Somebody else who says that a VIP is his."""

    vip: str
    mac: str
    first: int
    """Own clock, ns."""
    last: int
    said: int | None = None
    """When it was last reported; None while its claim is not confirmed."""


def heard_range(own: bytes, vips: frozenset[Address]) -> tuple[Step, ...]:
    """A filter for claims of others to addresses between the lowest and the highest VIP.

    Of IPv6 the last four bytes are compared. What passes still has to be looked up.
    """
    lows = [int(v) for v in vips if v.version == 4] or [1]
    highs = [int(v) & 0xFFFFFFFF for v in vips if v.version == 6] or [1]
    some4, some6 = any(v.version == 4 for v in vips), any(v.version == 6 for v in vips)
    drop, keep, mine = 18, 17, 13
    return (
        (LOAD_HALF, 0, 0, 12),
        (IF_EQUAL, 0, 3, neighbour.ETH_ARP),
        (LOAD_WORD, 0, 0, 28),
        (IF_AT_LEAST, 0, drop - 4, min(lows)),
        (IF_GREATER, drop - 5, (mine if some4 else drop) - 5, max(lows)),
        (IF_EQUAL, 0, drop - 6, neighbour.ETH_IPV6),
        (LOAD_BYTE, 0, 0, 20),
        (IF_EQUAL, 0, drop - 8, neighbour.ICMPV6),
        (LOAD_BYTE, 0, 0, 54),
        (IF_EQUAL, 0, drop - 10, neighbour.ADVERT),
        (LOAD_WORD, 0, 0, 74),
        (IF_AT_LEAST, 0, drop - 12, min(highs)),
        (IF_GREATER, drop - 13, (mine if some6 else drop) - 13, max(highs)),
        (LOAD_WORD, 0, 0, 6),
        (IF_EQUAL, 0, keep - 15, int.from_bytes(own[:4], "big")),
        (LOAD_HALF, 0, 0, 10),
        (IF_EQUAL, drop - 17, 0, int.from_bytes(own[4:], "big")),
        (RETURN, 0, 0, WHOLE),
        (RETURN, 0, 0, NOTHING),
    )


class Owners:
    """Hears for the VIPs that this device holds."""

    def __init__(
        self,
        interface: str,
        defend: Callable[[str], None],
        on_owner: Callable[[Owner], None],
        virtual: Callable[[str], bytes | None],
    ) -> None:
        """``defend(vip)`` announces it; ``on_owner`` gets each owner that is news.

        ``virtual(vip)`` is the virtual MAC of one that has it.
        """
        self._interface = interface
        self._defend = defend
        self._on_owner = on_owner
        self._virtual = virtual
        self._loop = asyncio.get_running_loop()
        self._since: dict[Address, int] = {}
        self._mac = bytes(6)
        self._taps: dict[int, socket.socket] = {}
        """By kind of frames."""
        self._owners: dict[tuple[str, str], Owner] = {}
        self._defended: dict[str, int] = {}
        self._told: dict[str, list[int]] = {}
        """When owners of a VIP were reported, within :data:`SAY_NS`."""
        self._second = self._frames = 0
        self._resume: asyncio.TimerHandle | None = None
        self._doubted: dict[str, object] = {}
        """VIPs with a claim that is not confirmed yet."""
        self._call_later: Callable[..., object] = self._loop.call_later

    def hold(self, vips: Sequence[str]) -> None:
        """Hear for exactly these from now on."""
        now = boottime()
        self._since = {ip: self._since.get(ip, now) for ip in map(ip_address, vips)}
        wanted = {_KIND[ip.version] for ip in self._since}
        for kind in self._taps.keys() - wanted:
            self._unlisten(kind)
        if wanted:
            self._listen(wanted)

    def present(self) -> tuple[Owner, ...]:
        """Owners of held VIPs that were heard lately."""
        oldest = boottime() - FRESH_NS
        held = {str(ip) for ip in self._since}
        return tuple(
            owner
            for owner in self._owners.values()
            if owner.last > oldest and owner.vip in held and owner.said is not None
        )

    def _listen(self, kinds: set[int]) -> None:
        """Open taps, or give them a filter for what is held now."""
        try:
            self._mac = link(self._interface).mac
            steps = heard_range(self._mac, frozenset(self._since))
            for kind in kinds:
                if kind in self._taps:
                    choose(self._taps[kind], steps)
                else:
                    self._taps[kind] = tap(self._interface, steps, kind)
                    self._loop.add_reader(self._taps[kind], self._read, kind)
        except (HalbError, OSError) as error:
            # Without an interface nobody is heard; the next refresh tries again.
            _log.warning("cannot listen on %s: %s", self._interface, error)

    def _read(self, kind: int) -> None:
        for _ in range(MAX_FRAMES):
            try:
                frame = self._taps[kind].recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError as error:
                _log.warning("cannot listen on %s: %s", self._interface, error)
                self._unlisten(kind)
                return
            self._frames += 1
            said = neighbour.heard(frame)
            if said is not None and said.has and said.mac != self._mac:
                self.hear(said.address, said.mac, boottime())
        self._rest(boottime())

    def _rest(self, now: int) -> None:
        """A flood of claims costs no more than a bounded number of them."""
        if now // SECOND != self._second:
            self._second, self._frames = now // SECOND, 0
        elif self._frames > MAX_PER_SECOND and self._resume is None:
            for listener in self._taps.values():
                self._loop.remove_reader(listener)
            self._resume = self._loop.call_later(1.0, self._again)

    def _again(self) -> None:
        self._resume = None
        for kind, listener in self._taps.items():
            self._loop.add_reader(listener, self._read, kind)

    def hear(self, address: Address, mac: bytes, now: int) -> None:
        """Somebody at ``mac`` says that ``address`` is his."""
        since = self._since.get(address)
        if since is None or now - since < GRACE_NS or mac == self._virtual(str(address)):
            return
        vip, key = str(address), (str(address), mac.hex(":"))
        owner = self._owners.get(key)
        if owner is not None:
            owner.last = now
        if vip in self._doubted:
            # One at a time: a flood of others would push it out before it is confirmed.
            return
        if owner is None:
            if len(self._owners) >= MAX_OWNERS:
                del self._owners[min(self._owners, key=lambda k: self._owners[k].last)]
            owner = self._owners[key] = Owner(*key, first=now, last=now)
        self._doubted[vip] = self._call_later(CONFIRM_S, self._confirm, owner, since)

    def _confirm(self, owner: Owner, since: int) -> None:
        """Act on a claim, if this device still holds the VIP and did not let go of it since.

        A hand-over, or an agent that was stopped for a while, hears its successor first and
        learns only then that it has one.
        """
        self._doubted.pop(owner.vip, None)
        if self._since.get(ip_address(owner.vip)) != since:
            return
        now = owner.last
        if now - self._defended.get(owner.vip, now - DEFEND_NS) >= DEFEND_NS:
            self._defended[owner.vip] = now
            self._defend(owner.vip)
        if owner.said is None or now - owner.said >= SAY_NS:
            owner.said = now
            told = [at for at in self._told.get(owner.vip, ()) if now - at < SAY_NS]
            if len(told) < MAX_TOLD:
                told.append(now)
                self._on_owner(owner)
            self._told[owner.vip] = told

    def _unlisten(self, kind: int) -> None:
        listener = self._taps.pop(kind)
        self._loop.remove_reader(listener)
        listener.close()

    def close(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        self._since = {}
        for kind in list(self._taps):
            self._unlisten(kind)
