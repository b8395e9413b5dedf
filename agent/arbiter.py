"""Questions on the service segment: does the arbiter answer, does somebody have a VIP?

ARP and neighbour discovery, sent and heard on the service interface. A round is
a few questions, spread over its time; nothing here waits for anything.

Of two devices that look for a VIP at the same time the one with the lower
hardware address goes first, as each sees the other's questions. These carry its
own address, also where answers for the VIP carry a virtual MAC, which does not
tell who sent them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent import neighbour
from agent.addresses import link
from agent.announce import Announcer
from agent.clock import boottime
from agent.tap import tap
from protocol.effects import Input, ProbeArbiter, Probed
from protocol.errors import HalbError
from protocol.ids import GroupId

QUESTIONS = 3
"""Questions for each address in one round."""
_BUFFER = 2048
_MAX_FRAMES = 256
"""Frames read in one go; the rest waits for the loop's next pass."""

# ARP, neighbour solicitations and advertisements.
_FILTER = (
    (0x28, 0, 0, 12),
    (0x15, 6, 0, neighbour.ETH_ARP),
    (0x15, 0, 6, neighbour.ETH_IPV6),
    (0x30, 0, 0, 20),
    (0x15, 0, 4, neighbour.ICMPV6),
    (0x30, 0, 0, 54),
    (0x15, 1, 0, neighbour.SOLICIT),
    (0x15, 0, 1, neighbour.ADVERT),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)

Address = IPv4Address | IPv6Address

_log = logging.getLogger("halb.arbiter")


@dataclass
class _Round:
    """The questions of one group under way."""

    effect: ProbeArbiter
    at: int
    mac: bytes
    arbiter: Address | None
    vips: frozenset[Address]
    virtual: frozenset[bytes] = frozenset()
    """Virtual MACs of the VIPs."""
    last: int = 0
    """When the newest question was sent."""
    failed: bool = False
    """A question could not be sent."""
    arbiter_answered: bool = False
    vip_answered: bool = False
    shared: bool = False
    """Somebody answered for a VIP with its virtual MAC."""
    outranked: bool = False
    """Somebody who goes first asked for a VIP."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def hear(self, heard: neighbour.Heard) -> bool:
        """Whether what was heard on the segment tells this round something new."""
        if heard.mac == self.mac:
            return False
        first = heard.mac < self.mac
        before = (self.arbiter_answered, self.vip_answered)
        if heard.has:
            self.arbiter_answered |= heard.address == self.arbiter
        if heard.address in self.vips:
            self._hear_of_vip(heard, first)
        return before != (self.arbiter_answered, self.vip_answered)

    def _hear_of_vip(self, heard: neighbour.Heard, first: bool) -> None:
        if not self.effect.holding:
            self.vip_answered |= heard.has or first
        elif heard.has and heard.mac not in self.virtual:
            self.vip_answered |= first
        else:
            # Another holder asks as this one does, in the course of the same round.
            self.shared |= heard.has
            self.outranked |= first and not heard.has
            self.vip_answered |= self.shared and self.outranked

    @property
    def answered(self) -> bool:
        """Whether there is nothing left to wait for."""
        if self.vips and not self.vip_answered:
            return False
        return self.arbiter is None or self.arbiter_answered


class Prober:
    """Carries out :class:`ProbeArbiter`, and hands in :class:`Probed`."""

    def __init__(
        self,
        interface: str,
        announcer: Announcer,
        deliver: Callable[[Input], None],
        virtual: Callable[[str], bytes | None],
    ) -> None:
        """Used by the loop's thread only. ``virtual(vip)`` is the virtual MAC of one with it."""
        self._interface = interface
        self._announcer = announcer
        self._deliver = deliver
        self._virtual = virtual
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._rounds: dict[GroupId, _Round] = {}
        self._trouble = ""

    def ask(self, effect: ProbeArbiter) -> None:
        """Begin a round; one of the same group that is under way ends without a report."""
        self._end(effect.group)
        try:
            self._listen()
            mac = link(self._interface).mac
        except (HalbError, OSError) as error:
            # Without an interface nobody is asked; the core asks for another round.
            self._complain(str(error))
            return
        arbiter = None if effect.arbiter is None else ip_address(effect.arbiter)
        vips = frozenset(map(ip_address, effect.vips))
        virtual = frozenset(filter(None, map(self._virtual, map(str, vips))))
        asked = _Round(effect, boottime(), mac, arbiter, vips, virtual)
        self._rounds[effect.group] = asked
        self._send(asked)
        seconds = effect.patience / 1e9
        asked.timers = [
            self._loop.call_later(seconds * n / QUESTIONS, self._send, asked)
            for n in range(1, QUESTIONS)
        ]
        asked.timers.append(self._loop.call_later(seconds, self._finish, asked))

    def _send(self, asked: _Round) -> None:
        try:
            if asked.arbiter is not None and not asked.arbiter_answered:
                self._announcer.ask(str(asked.arbiter))
            for vip in asked.effect.vips if not asked.vip_answered else ():
                self._announcer.ask(vip)
            asked.last = boottime()
            self._trouble = ""
        except HalbError as error:
            asked.failed = True
            self._complain(error.message)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.warning("cannot ask on %s: %s", self._interface, trouble)
        self._trouble = trouble

    def _read(self) -> None:
        assert self._socket is not None
        for _ in range(_MAX_FRAMES):
            try:
                frame = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                # The interface went down or away; the next round opens another socket.
                self._complain(str(error))
                self._unlisten()
                return
            heard = neighbour.heard(frame)
            if heard is not None:
                self._hear(heard)

    def _hear(self, heard: neighbour.Heard) -> None:
        for asked in list(self._rounds.values()):
            if not asked.hear(heard):
                continue
            if asked.answered:
                self._finish(asked)
            elif asked.effect.holding:
                # A primary must know in time that it may go on.
                self._report(asked)

    def _finish(self, asked: _Round) -> None:
        self._end(asked.effect.group)
        self._report(asked)

    def _end(self, group: GroupId) -> None:
        asked = self._rounds.pop(group, None)
        for timer in asked.timers if asked else ():
            timer.cancel()

    def _report(self, asked: _Round) -> None:
        effect = asked.effect
        # A process that was stalled asked late, and gave nobody the time to answer.
        time_left = boottime() - asked.last >= effect.patience // (2 * QUESTIONS)
        whole = bool(effect.vips) and not (effect.holding or asked.failed) and time_left
        self._deliver(
            Probed(effect.group, asked.at, asked.arbiter_answered, whole, asked.vip_answered)
        )

    def _listen(self) -> None:
        if self._socket is None:
            self._socket = tap(self._interface, _FILTER)
            self._loop.add_reader(self._socket, self._read)

    def _unlisten(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        for group in list(self._rounds):
            self._end(group)
        self._unlisten()
