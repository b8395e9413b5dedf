"""Leases and announcements of VIPs: what the core decides, done to the kernel in time.

What comes too late is not carried out, for what confirmed it is too old by then. Where a
lease is over by that, the core is told that it lapsed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from agent.announce import Announcer, schedule
from agent.clock import boottime
from agent.lease import KernelLease
from agent.nft import KernelBusy
from agent.opening import Opening, Openings
from agent.presence import Presence
from protocol.effects import Acquire, Input, Lame, LeaseLapsed, Refresh, Release
from protocol.errors import HalbError
from protocol.ids import DeviceId, GroupId
from protocol.lease import MARGIN_NS
from protocol.timing import DRAIN_NS, MILLISECOND, SECOND, Profile, Timing

RENEWED_AT_ONCE = 128
HELD_UP_NS = MILLISECOND
"""Renewing so many takes half of it; an agent that took longer was held up meanwhile."""

_OfLease = Acquire | Refresh | Release | Lame
_LEASE_NS = {profile: Timing.of(profile).lease for profile in Profile}

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
        self._ends: dict[GroupId, int] = {}
        """When (own clock, ns) the lease of each is over, if it is not renewed."""
        self._openings = Openings()
        self._opens_soon: asyncio.Handle | None = None
        self._forwards_until = 0
        self._closed = False
        self.announced: dict[GroupId, int] = {}
        """When (own clock, ns) each group's newest announcement began."""

    @property
    def held(self) -> frozenset[GroupId]:
        """Groups whose lease this device has opened."""
        return frozenset(self._open)

    def acquire(self, effects: Sequence[Acquire]) -> None:
        """Open leases, then announce: at once and again while the network may forget.

        Of many some at once, and the others in the next passes of the event loop.
        """
        for effect in effects:
            self.announced.pop(effect.group, None)
        self._openings.add(effects)
        if self._opens_soon is None:
            self._open_some()

    def _open_some(self) -> None:
        self._opens_soon = None
        if not self._openings:
            return
        opening = self._openings.take(began := boottime())
        opened = self._opened(opening.due, opening) if opening.due else ()
        if opened and boottime() > opening.by:
            # With one transaction: closing one by one would make those late that are in time.
            self.release([Release(effect.group, effect.vips) for effect in opened])
            self._were_late([*opening.late, *opened], opening)
        else:
            self._were_late(opening.late, opening)
            self._have_opened(opened, began + opening.lease)
        if self._openings:
            self._opens_soon = self._loop.call_soon(self._open_some)

    def _opened(self, effects: Sequence[Acquire], opening: Opening) -> Sequence[Acquire]:
        """Those whose leases the kernel has opened; what became of the others is told."""
        if boottime() > opening.by:
            self._were_late(effects, opening)
            return ()
        try:
            self._lease.acquire([vip for effect in effects for vip in effect.vips], opening.lease)
        except KernelBusy as error:
            _log.info("%d leases: %s. %s", len(effects), error.message, error.remedy)
            self._lapsed(effects)
            return ()
        except HalbError as error:
            if len(effects) == 1:
                self._refused(effects, error)
                return ()
        else:
            return effects
        # One that the kernel refuses keeps none of the others from being opened: among 128 it
        # is found with 15 transactions.
        half = len(effects) // 2
        parts = effects[:half], effects[half:]
        return [effect for part in parts for effect in self._opened(part, opening)]

    def _have_opened(self, effects: Sequence[Acquire], ends: int) -> None:
        for former in sorted({e.predecessor for e in effects if e.predecessor is not None}):
            self._relay([v for e in effects if e.predecessor == former for v in e.vips], former)
        for effect in effects:
            already = self._open.get(effect.group, ())
            new = tuple(v for v in effect.vips if v not in already)
            self._open[effect.group] = (*already, *new)
            whole = set(already) <= set(effect.vips)
            self._ends[effect.group] = ends if whole else min(ends, self._ends[effect.group])
        self._announce([effect.group for effect in effects])

    def _relay(self, vips: Sequence[str], to: DeviceId) -> None:
        """Before the announcement: it moves the gateways in the middle of their flows."""
        try:
            self._lease.relay(vips, self._addresses_of(to), DRAIN_NS)
        except HalbError as error:
            _log.warning("flows may stall: cannot send packets on to %s: %s", to, error.message)

    def refresh(self, effects: Sequence[Refresh]) -> None:
        """Renew leases, each where it still lives.

        One that comes too late to be renewed is not over yet: the next may come in time.
        """
        for profile in sorted({effect.profile for effect in effects}):
            alike = [effect for effect in effects if effect.profile == profile]
            for at in range(0, len(alike), RENEWED_AT_ONCE):
                self._renew(alike[at : at + RENEWED_AT_ONCE], profile)

    def _renew(self, effects: Sequence[Refresh], profile: Profile) -> None:
        now = boottime()
        for effect in effects:
            self._openings.confirm(effect)
        # What is not open is about to be, or the core was told that it is not.
        due = [e for e in effects if now <= e.deadline and e.group in self._open]
        over = [e for e in due if now + MARGIN_NS > self._ends[e.group]]
        alive = [e for e in due if now + MARGIN_NS <= self._ends[e.group]]
        vips = [vip for effect in alive for vip in effect.vips]
        try:
            if vips:
                self._lease.refresh(vips, profile)
        except HalbError as error:
            self._refused(alive, error)
            alive = []
        self._ends.update((effect.group, now + _LEASE_NS[profile]) for effect in alive)
        done = boottime()
        # Stopped after the look above and continued, this renewed for longer than it may.
        held_up = [effect for effect in alive if done > effect.deadline + HELD_UP_NS]
        if held_up:
            self.release([Release(effect.group, effect.vips) for effect in held_up])
        if lapsed := [*over, *held_up]:
            _log.warning("%d leases were over before they were renewed", len(lapsed))
            self._lapsed(lapsed)

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
                self._refused(effects, error)

    def lame(self, effects: Sequence[Lame]) -> None:
        """Announce nothing more of these, and go on forwarding; by one transaction."""
        for drain in sorted({effect.drain for effect in effects}):
            self._forwards_until = boottime() + drain
            alike = [effect for effect in effects if effect.drain == drain]
            for effect in alike:
                self._withdraw(effect.group, effect.vips)
            self._lease.end_relay([vip for effect in alike for vip in effect.vips])
            try:
                self._lease.lame([effect.vips for effect in alike], drain)
            except HalbError as error:
                self._refused(alike, error)

    async def forwarded(self) -> None:
        """Wait while packets still come here, from successors too, of what was handed over."""
        await asyncio.sleep(max(0, self._forwards_until - boottime()) / SECOND)

    def announce(self, groups: Iterable[GroupId]) -> None:
        """Announce once more what is open already."""
        self._announce([group for group in groups if group in self._open])

    def move(self, own: Callable[[], Sequence[str]]) -> None:
        """The interface has another hardware address: announce what is open, and ``own`` ones.

        Linux asks for a neighbour in the name of whatever address it has a packet from. So who
        knew the device's own ones, as gateways do from checks and `snat`, would go on sending to
        where they were until they ask themselves, 5 s later.
        """
        now = boottime()
        for at in schedule(now):
            self._loop.call_later((at - now) / SECOND, self._tell_own, own)
        self.announce(self.held)

    def _tell_own(self, own: Callable[[], Sequence[str]]) -> None:
        if self._closed:
            return
        try:
            self._announcer.announce(own())
        except HalbError as error:
            _log.warning("cannot announce the device's own addresses: %s", error.message)

    def on_pass(self, *, lost: bool, moved: Iterable[GroupId]) -> None:
        """The kernel was looked after: leases were ``lost``, groups ``moved`` for the network."""
        if lost:
            self.check()
        self.announce(moved)

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

    def _were_late(self, effects: Sequence[Acquire], opening: Opening) -> None:
        if effects:
            # Some were to open later than those that they were opened together with.
            first = min(opening.by, *(effect.deadline for effect in effects))
            most = (boottime() - first) // MILLISECOND
            _log.warning("%d leases came up to %d ms too late: not opened", len(effects), most)
            self._lapsed(effects)

    def _refused(self, effects: Sequence[_OfLease], error: HalbError) -> None:
        groups = " ".join(effect.group for effect in effects)
        _log.error("lease of %s: %s. %s", groups, error.message, error.remedy)
        self._lapsed(effects)

    def _lapsed(self, effects: Sequence[_OfLease]) -> None:
        self._deliver(LeaseLapsed(tuple(effect.group for effect in effects)))

    def _announce(self, groups: Sequence[GroupId]) -> None:
        if not groups:
            return
        now = boottime()
        self.announced.update(dict.fromkeys(groups, now))
        first, *later = schedule(now)
        assert first == now
        self._tell(groups, now)
        for at in later:
            self._loop.call_later((at - now) / SECOND, self._tell, groups, now)
        for group in groups:
            self._presence.held(group, self._open[group])

    def _tell(self, groups: Sequence[GroupId], announced: int) -> None:
        """Of these, what was not announced anew or closed since ``announced``."""
        still = [g for g in groups if g in self._open and self.announced.get(g) == announced]
        vips = [vip for group in still for vip in self._open[group]]
        if not vips:
            return
        try:
            self._announcer.announce(vips)
        except HalbError as error:
            _log.warning("cannot announce %s: %s", " ".join(vips), error.message)

    def _withdraw(self, group: GroupId, vips: tuple[str, ...]) -> None:
        self._openings.drop(group, vips)
        left = tuple(v for v in self._open.pop(group, ()) if v not in vips)
        if left:
            self._open[group] = left
        else:
            self._ends.pop(group, None)
        self._presence.left(group, left)

    def close(self) -> None:
        """Tell the network nothing more; leases end by their timeouts."""
        self._closed = True
        self._openings.clear()
        self._open.clear()
        self._presence.close()
        self._lease.close()
        self._announcer.close()
