"""Virtual MACs in this kernel: followed as they change, and taken by the network card.

A kernel or an nft that does not take the rules is no reason not to carry a Virtual
Server: its VIPs then have the address of the primary.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Mapping
from ipaddress import ip_address

from agent import virtual_mac
from agent.addresses import link
from agent.clock import boottime
from agent.neighbour import mac_of
from agent.nft import KernelRefused, Nft
from agent.ruleset import Desired
from agent.virtual_mac import Content, Pair, content_of
from protocol.ids import GroupId
from protocol.timing import SECOND

LEAVE_NS = 60 * SECOND
"""Frames to an address that a VIP had before are taken for so long: caches ask anew about a
neighbour in use there, after 15 to 45 s with Linux."""

_SOL_PACKET = 263
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _UNICAST = 1, 2, 3
_MEMBERSHIP = struct.Struct("=iHH8s")

_log = logging.getLogger("halb.kernel")


class Macs:
    """Those of the VIPs of one interface; used by one thread only."""

    def __init__(self, nft: Nft, interface: str) -> None:
        self._nft = nft
        self._interface = interface
        self._macs: Mapping[str, str] = {}
        """By VIP, as wanted in the newest pass."""
        self._former: dict[Pair, int] = {}
        """Addresses that VIPs had before, and until when (own clock, ns) they are taken."""
        self._asked: tuple[Mapping[str, str], frozenset[Pair], bytes] | None = None
        self._content: Content | None = None
        """In force; None where that is not known."""
        self._card = _Card()
        self._lacking = ""
        """Why this host cannot have virtual MACs; empty if it can."""
        self._trouble = ""
        self.moved: frozenset[GroupId] = frozenset()
        """Virtual Servers whose VIPs are elsewhere for others since the newest pass."""
        self.refused: Mapping[GroupId, str] = {}
        """Those whose VIPs have no virtual MAC here although they should, and why."""

    def prepare(self, lacking: str) -> None:
        """``lacking``: why this kernel does not take the rules at all; empty where it does."""
        self._lacking = lacking

    def forget(self) -> None:
        """Somebody changed the table that the rules are in."""
        self._content = None

    def reconcile(self, desired: Desired) -> tuple[str, ...]:
        """Make it as desired; what was done, in words."""
        at, changed, refused = link(self._interface), False, self._lacking
        self._want(desired)
        if not refused:
            try:
                changed = self._follow((self._macs, frozenset(self._former), at.mac))
            except KernelRefused as error:
                refused = error.message
        trouble = refused or self._take(at.index)
        self._complain(trouble if self._macs else "")
        some = (vs.uid for vs in desired.virtual_servers if vs.virtual_mac)
        self.refused = dict.fromkeys(some, f"no virtual MAC: {refused}") if refused else {}
        return (f"virtual MACs set for {len(self._macs)} VIPs",) if changed else ()

    def _want(self, desired: Desired) -> None:
        """Note what is wanted, and what VIPs had before."""
        before, wanted, now = self._macs, desired.macs, boottime()
        moved = {v for v in before.keys() | wanted.keys() if before.get(v) != wanted.get(v)}
        former = {(before[vip], vip): now + LEAVE_NS for vip in moved & before.keys()}
        self._former = {
            (mac, vip): until
            for (mac, vip), until in {**self._former, **former}.items()
            if until > now and vip in desired.addresses and wanted.get(vip) != mac
        }
        self._macs = wanted
        self.moved = frozenset(
            uid
            for uid, vips in (desired.vips.items() if moved else ())
            if not moved.isdisjoint(str(ip_address(vip)) for vip in vips)
        )

    def _follow(self, asked: tuple[Mapping[str, str], frozenset[Pair], bytes]) -> bool:
        """Whether anything had to be changed; raises :class:`KernelRefused`."""
        if self._content is not None and asked == self._asked:
            return False
        content, old = content_of(*asked), self._content
        self._asked, self._content = asked, None
        if old is None:
            script = virtual_mac.load(content, self._interface)
        else:
            script = virtual_mac.change(old, content, self._interface)
        if script:
            self._nft.run(script)
        self._content = content
        return bool(script) and bool(content or old)

    def _take(self, index: int) -> str:
        """Let the card take frames to all of them; why it does not."""
        try:
            self._card.take({*self._macs.values(), *(mac for mac, _ in self._former)}, index)
        except OSError as error:
            return f"the network card takes no further address: {error.strerror}"
        return ""

    def _complain(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.error("virtual MACs on %s: %s", self._interface, trouble)
        self._trouble = trouble

    def close(self) -> None:
        """Leave nothing with the card; the rules go with their table."""
        self._card.close()
        self._macs, self._former, self._content = {}, {}, None


class _Card:
    """The filter of a network card: for as long as a socket is open it takes further addresses."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._index = 0
        self._macs: set[str] = set()

    def take(self, macs: set[str], index: int) -> None:
        """Take frames to exactly these addresses beside its own; raises OSError."""
        if not macs or index != self._index:
            # With its interface a filter is gone, too.
            self.close()
        if macs and self._socket is None:
            flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self._socket, self._index = socket.socket(socket.AF_PACKET, flags, 0), index
        for mac in macs - self._macs:
            self._change(_ADD_MEMBERSHIP, mac)
            self._macs.add(mac)
        for mac in self._macs - macs:
            self._change(_DROP_MEMBERSHIP, mac)
            self._macs.discard(mac)

    def _change(self, option: int, mac: str) -> None:
        assert self._socket is not None
        packed = mac_of(mac)
        asked = _MEMBERSHIP.pack(self._index, _UNICAST, len(packed), packed)
        self._socket.setsockopt(_SOL_PACKET, option, asked)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._macs = None, set()
