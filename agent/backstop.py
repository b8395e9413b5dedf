"""What comes for a VIP and no rule leads anywhere is dropped, and not answered.

Rules take it, from clients as from gateways, before the host takes it for its own. While somebody
has flushed all rules, as each reload of ``/etc/nftables.conf`` does, it is the host's: which knows
no such connection, and would reset it. Policies in the kernel's IPsec database (xfrm) that block
what is delivered to a VIP stand behind the rules. No flush of rules takes them along, and what is
forwarded never meets them. Both sides send again what was dropped, and by then rules are back.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from agent import netlink
from agent.addresses import of_others
from agent.features import BACKSTOP, Feature, Lack
from agent.nft import KernelRefused
from agent.ruleset import Desired
from protocol.errors import HalbError

PRIORITY = 0x48414C42
"""Of our policies ("HALB"), by which they are known. Those of others, with lower ones, go first."""
LOOK_S = 60.0
"""Seconds between two looks for policies that others removed, as IPsec daemons do that start."""

_NEW, _DELETE, _GET = 19, 20, 21
_SELECTOR = struct.Struct("=16s24sHBBB3x8s")
"""Where to; where from and ports; IP version, lengths of both prefixes, protocol; interface and
user (``struct xfrm_selector``)."""
_INFO = struct.Struct(f"={_SELECTOR.size}s4Q4Q4QIIBBBB4x")
"""Selector, limits, limits of time, use, priority, index, direction, action, flags, sharing
(``struct xfrm_userpolicy_info``)."""
_ID = struct.Struct(f"={_SELECTOR.size}sIB3x")
"""Selector, index, direction (``struct xfrm_userpolicy_id``)."""
_INWARD, _BLOCK = 0, 1
_UNLIMITED = (2**64 - 1,) * 4
_FAMILY = {4: 2, 6: 10}
PROTOCOLS = (6, 17)
"""TCP and UDP."""

_log = logging.getLogger("halb.kernel")


def guarded(desired: Desired, of_host: frozenset[str]) -> frozenset[str]:
    """VIPs for which nothing is to be delivered to this host; ``of_host`` are its own addresses.

    Not those of Virtual Servers with a gateway on this host: what is led there is delivered, and
    met by the policy as it was before it was translated.
    """
    servers = desired.virtual_servers
    near = [vs.uid for vs in servers if any(g.address in of_host for g in vs.gateways)]
    delivered = (str(ip_address(vip)) for uid in near for vip in desired.vips.get(uid, ()))
    return desired.addresses.difference(delivered)


def _selector(vip: str, protocol: int) -> bytes:
    ip = ip_address(vip)
    to, length = ip.packed.ljust(16, b"\0"), ip.max_prefixlen
    return _SELECTOR.pack(to, bytes(24), _FAMILY[ip.version], length, 0, protocol, bytes(8))


class Backstop:
    """The policies of one host; used by one thread only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds that only grow."""
        self._clock = clock
        self._there = True
        """Whether the kernel has such a database."""
        self._desired: Desired | None = None
        self._vips: frozenset[str] = frozenset()
        self._look_at = 0.0
        """When it is looked again whether others removed some."""

    def prepare(self) -> tuple[Lack, ...]:
        """What the kernel lacks of it."""
        try:
            _present()
        except netlink.NetlinkError as error:
            self._there = False
            return (Lack(Feature(BACKSTOP, ()), KernelRefused(error.message)),)
        self._there = True
        return ()

    def reconcile(self, desired: Desired) -> None:
        """Have the policies that are wanted, and no other of ours.

        VIPs are served without, too: what the kernel refuses is tried again with the next look.
        """
        rest = self._clock() < self._look_at
        if not self._there or (rest and desired is self._desired):
            return
        vips = guarded(desired, of_others())
        if not rest or vips != self._vips:
            self._look_at = self._clock() + LOOK_S
            try:
                _make(vips)
            except HalbError as error:
                _log.warning("what comes for a VIP while others flush all rules: %s", error.message)
        self._desired, self._vips = desired, vips

    def remove(self) -> None:
        """Leave none behind, also of a killed agent."""
        if not self.prepare():
            _make(frozenset())
        self._desired, self._vips, self._look_at = None, frozenset(), 0.0


def _make(vips: frozenset[str]) -> None:
    wanted, present = {_selector(vip, p) for vip in vips for p in PROTOCOLS}, _present()
    # Who has one for just the same packets decides about them; the kernel keeps no two.
    _change(_NEW, map(_policy, wanted - present), unless=errno.EEXIST)
    gone = (_ID.pack(stale, 0, _INWARD) for stale in present - wanted)
    _change(_DELETE, gone, unless=errno.ENOENT)


def _policy(selector: bytes) -> bytes:
    none = (0,) * 4
    return _INFO.pack(
        selector, *_UNLIMITED, *none, *none, PRIORITY, 0, _INWARD, _BLOCK, 0, 0
    )  # fmt: skip


def _present() -> frozenset[bytes]:
    purpose = "list IPsec policies"
    listed = netlink.listed(netlink.XFRM, _GET, b"", purpose=purpose)
    found = (_INFO.unpack_from(body) for body in listed if len(body) >= _INFO.size)
    return frozenset(
        selector
        for selector, *_, priority, _, direction, action, _, _ in found
        if (priority, direction, action) == (PRIORITY, _INWARD, _BLOCK)
    )


def _change(kind: int, bodies: Iterable[bytes], *, unless: int) -> None:
    """Raises :class:`NetlinkError` for what is refused, ``unless`` with this code."""
    messages = [netlink.message(kind, body, number=at) for at, body in enumerate(bodies)]
    if not messages:
        return
    pipeline = netlink.Pipeline(netlink.XFRM)
    try:
        for code in set(pipeline.send(messages).values()) - {unless}:
            raise netlink.NetlinkError("change IPsec policies", code)
    finally:
        pipeline.close()
