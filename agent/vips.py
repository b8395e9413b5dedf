"""Leases and announcements of VIPs: what the core decides, done to the kernel in time.

An effect that comes after its deadline is not carried out: what confirmed it
is too old by then, and the core is told that the lease lapsed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from agent.announce import Announcer, schedule
from agent.clock import boottime
from agent.lease import KernelLease
from agent.nft import KernelBusy
from agent.presence import Presence
from protocol.effects import Acquire, Input, Lame, LeaseLapsed, Refresh, Release
from protocol.errors import HalbError
from protocol.ids import DeviceId, GroupId
from protocol.timing import DRAIN_NS, MILLISECOND, SECOND

HELD_UP_NS = MILLISECOND
"""Renewing takes some microseconds; an agent that took longer was held up meanwhile."""

_log = logging.getLogger("halb.vips")


class Vips:
    """Opens, renews and closes kernel leases, and tells the network about them."""

    def __init__(
        self,
        lease: KernelLease,
        announcer: Announcer,
        deliver: Callable[[Input], None],
        addresses_of: Callable[[DeviceId], Sequence[str]],
        presence: Presence,
    ) -> None:
        """``addresses_of`` gives the addresses of another device, without ports."""
        self._lease = lease
        self._announcer = announcer
        self._deliver = deliver
        self._addresses_of = addresses_of
        self._presence = presence
        self._loop = asyncio.get_running_loop()
        self._open: dict[GroupId, tuple[str, ...]] = {}
        self._announcements: dict[GroupId, list[asyncio.TimerHandle]] = {}
        self._forwards_until = 0
        self.announced: dict[GroupId, int] = {}
        """When (own clock, ns) each group's newest announcement began."""

    @property
    def held(self) -> frozenset[GroupId]:
        """Groups whose lease this device has opened."""
        return frozenset(self._open)

    def acquire(self, effects: Sequence[Acquire]) -> None:
        """Open leases, then announce: at once and again while the network may forget.

        All that last as long are opened by one transaction: each takes a millisecond, for
        which nothing else is renewed.
        """
        for lease in sorted({effect.lease for effect in effects}):
            due = [e for e in effects if e.lease == lease and not self._late(e.group, e.deadline)]
            opened = self._opened(due, lease) if due else ()
            # Before any is announced, and with one transaction: of many that come at once, closing
            # late ones one by one would make those late that are in time.
            late = [e for e in opened if self._late(e.group, e.deadline)]
            if late:
                self.release([Release(e.group, e.vips) for e in late])
            closed = {e.group for e in late}
            for effect in opened:
                if effect.group not in closed:
                    self._has_opened(effect)

    def _opened(self, effects: Sequence[Acquire], lease_ns: int) -> Sequence[Acquire]:
        """Those whose leases the kernel has opened; what became of the others is told."""
        try:
            self._lease.acquire([vip for effect in effects for vip in effect.vips], lease_ns)
        except KernelBusy as error:
            _log.info("%d leases: %s. %s", len(effects), error.message, error.remedy)
            self._deliver(LeaseLapsed(tuple(effect.group for effect in effects)))
            return ()
        except HalbError as error:
            if len(effects) > 1:
                # One that the kernel refuses keeps none of the others from being opened.
                return [done for each in effects for done in self._opened([each], lease_ns)]
            self._refused(effects[0].group, error)
            return ()
        return effects

    def _has_opened(self, effect: Acquire) -> None:
        if effect.predecessor is not None:
            self._relay(effect.vips, effect.predecessor)
        already = self._open.get(effect.group, ())
        new = tuple(v for v in effect.vips if v not in already)
        self._open[effect.group] = (*already, *new)
        self._announce(effect.group)

    def _relay(self, vips: tuple[str, ...], to: DeviceId) -> None:
        """Before the announcement: it moves the gateways in the middle of their flows."""
        try:
            self._lease.relay(vips, self._addresses_of(to), DRAIN_NS)
        except HalbError as error:
            _log.warning("flows may stall: cannot send packets on to %s: %s", to, error.message)

    def refresh(self, effect: Refresh) -> None:
        if self._late(effect.group, effect.deadline):
            return
        try:
            self._lease.refresh(effect.vips, effect.profile)
        except HalbError as error:
            self._refused(effect.group, error)
        # Stopped after the look above and continued, it has renewed for longer than it may.
        if self._late(effect.group, effect.deadline + HELD_UP_NS):
            self.release([Release(effect.group, effect.vips)])

    def release(self, effects: Sequence[Release]) -> None:
        """Close leases, whether they are open or not, by one transaction."""
        vips = tuple(dict.fromkeys(vip for effect in effects for vip in effect.vips))
        for effect in effects:
            self._withdraw(effect.group, effect.vips)
        self._lease.end_relay(vips)
        try:
            self._lease.release(vips)
        except HalbError as error:
            if len(effects) > 1:
                # One that the kernel refuses keeps none of the others from being closed.
                for each in effects:
                    self.release([each])
            else:
                self._refused(effects[0].group, error)

    def lame(self, effect: Lame) -> None:
        self._forwards_until = boottime() + effect.drain
        self._withdraw(effect.group, effect.vips)
        self._lease.end_relay(effect.vips)
        try:
            self._lease.lame(effect.vips, effect.drain)
        except HalbError as error:
            self._refused(effect.group, error)

    async def forwarded(self) -> None:
        """Wait while packets still come here, from successors too, of what was handed over."""
        await asyncio.sleep(max(0, self._forwards_until - boottime()) / SECOND)

    def announce(self, group: GroupId) -> None:
        """Announce once more what is open already."""
        if group in self._open:
            self._announce(group)

    async def probe(self, vips: Sequence[str], seconds: float) -> dict[str, str]:
        """MAC of whoever else answers for one of ``vips``, by VIP."""
        return await self._announcer.probe(vips, seconds)

    def check(self) -> None:
        """Compare with the kernel: a lease that should be open and is not has lapsed."""
        if not self._open:
            return
        lease = self._lease.held()
        held = lease.announced.keys() & lease.accepted.keys()
        lapsed = tuple(
            group for group, vips in self._open.items() if any(v not in held for v in vips)
        )
        if lapsed:
            self._deliver(LeaseLapsed(lapsed))

    def _late(self, group: GroupId, deadline: int) -> bool:
        late = boottime() - deadline
        if late <= 0:
            return False
        _log.warning("lease of %s came %d ms too late: not renewed", group, late // 1_000_000)
        self._deliver(LeaseLapsed((group,)))
        return True

    def _refused(self, group: GroupId, error: HalbError) -> None:
        _log.error("lease of %s: %s. %s", group, error.message, error.remedy)
        self._deliver(LeaseLapsed((group,)))

    def _announce(self, group: GroupId) -> None:
        self._cancel(group)
        now = boottime()
        self.announced[group] = now
        first, *later = schedule(now)
        assert first == now
        self._tell(group)
        self._announcements[group] = [
            self._loop.call_later((at - now) / 1e9, self._tell, group) for at in later
        ]
        self._presence.held(group, self._open[group])

    def _tell(self, group: GroupId) -> None:
        try:
            self._announcer.announce(self._open[group])
        except HalbError as error:
            _log.warning("cannot announce %s: %s", group, error.message)

    def _withdraw(self, group: GroupId, vips: tuple[str, ...]) -> None:
        left = tuple(v for v in self._open.pop(group, ()) if v not in vips)
        if left:
            self._open[group] = left
        else:
            self._cancel(group)
        self._presence.left(group, left)

    def _cancel(self, group: GroupId) -> None:
        for handle in self._announcements.pop(group, ()):
            handle.cancel()

    def close(self) -> None:
        for group in list(self._announcements):
            self._cancel(group)
        self._presence.close()
        self._lease.close()
        self._announcer.close()
