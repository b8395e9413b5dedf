"""S1 and S5 to S9: who announces a VIP, as the kernels have it, and on whose word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.config import Config
from protocol.effects import Acquire, Ballot, Lame, Refresh, Release
from protocol.ids import DeviceId, GroupId
from protocol.messages import Ack, Beat, Claim, Vote, Voted
from protocol.quorum import majority
from protocol.timing import INTERVAL_NS, MILLISECOND, PROMISE_INTERVALS

if TYPE_CHECKING:
    from tests.sim.checkers import Bounds, Checker
    from tests.sim.machine import Machine
    from tests.sim.shell import Process


class LeaseCheck:
    """Follows every lease element of every kernel."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self.ends: dict[str, int] = {}
        """VIP to the real time at which its last announcer stops or stopped."""
        self.holder: dict[str, DeviceId] = {}
        self.gaps: list[tuple[str, int, int, bool]] = []
        """(VIP, real time, gap in ns, new holder?) at each acquire after the first."""
        self.overlap = 0
        """Nanoseconds that would have had two announcers; measured by ablations."""
        self.ghosts: dict[int, int] = {}
        """Devices that were paused, and until when their lease may be open beside another's."""
        self.pause_overlap = 0
        """Most nanoseconds with two announcers of which one had been paused: a known limit."""
        self.by_force = False
        """An operator gives up devices that may run: two announce until they hear of it."""
        self._rests_on: dict[tuple[int, str], Config] = {}
        """The configuration by which a device took, or renewed, the lease of a VIP."""
        self._barred: set[tuple[DeviceId, GroupId]] = set()
        """Devices that must not take a frozen Virtual Server by themselves."""
        self._lame: set[tuple[int, str]] = set()
        self._lists: dict[tuple[DeviceId, DeviceId, int], tuple[Claim, ...]] = {}
        self._asked: dict[tuple[DeviceId, GroupId, int], int] = {}
        self._fresh: dict[tuple[DeviceId, GroupId, int], dict[DeviceId, int]] = {}
        self._terms: dict[tuple[DeviceId, GroupId], int] = {}

    # What a device says and hears

    def restarted(self, device: DeviceId) -> None:
        self._lists = {k: v for k, v in self._lists.items() if k[0] != device}
        self._fresh = {k: v for k, v in self._fresh.items() if k[0] != device}
        self._asked = {k: v for k, v in self._asked.items() if k[0] != device}

    def says_beat(self, device: DeviceId, to: DeviceId, beat: Beat) -> None:
        if beat.claims is not None:
            self._lists[device, to, beat.epoch] = beat.claims

    def says_vote(self, process: Process, vote: Vote) -> None:
        self._asked.setdefault((process.machine.id, vote.group, vote.term), process.stepped_at)

    def hears_ack(self, device: DeviceId, sender: DeviceId, ack: Ack) -> None:
        claims = self._lists.get((device, sender, ack.epoch))
        if not claims:
            return
        refused = {r.group for r in ack.refused} if ack.refused else ()
        for claim in claims:
            if claim.group not in refused:
                self._confirm(device, claim.group, claim.term, sender, ack.echo)

    def hears_voted(self, device: DeviceId, sender: DeviceId, voted: Voted) -> None:
        asked = self._asked.get((device, voted.group, voted.term))
        if voted.granted and asked is not None:
            self._confirm(device, voted.group, voted.term, sender, asked)

    def _confirm(
        self, device: DeviceId, group: GroupId, term: int, voter: DeviceId, sent: int
    ) -> None:
        fresh = self._fresh.get((device, group, term))
        if fresh is None:
            fresh = self._fresh[device, group, term] = {}
        if sent > fresh.get(voter, 0):
            fresh[voter] = sent

    # What a device does to its kernel

    def acquiring(self, process: Process, effect: Acquire, until: int) -> None:
        """Called just before the lease opens."""
        machine, now = process.machine, process.world.now
        bounds = self._checker.bounds(effect.group)
        newest = machine.disk.ballots.get(effect.group, Ballot())
        if effect.term < newest.term:
            text = f"{process.name} acts on term {effect.term} of {effect.group}, knows {newest}"
            self._checker.fail("S10", text)
        self._terms[machine.id, effect.group] = effect.term
        self._rest(process, effect.vips)
        for vip in effect.vips:
            self._lame.discard((machine.index, vip))
            self._nobody_else_announces(machine, vip, until)
            if vip in self.holder:
                gap = max(0, now - self.ends[vip])
                self.gaps.append((vip, now, gap, self.holder[vip] != machine.id))
            self.holder[vip] = machine.id
            self.ends[vip] = until
        if bounds and effect.lease > bounds.lease:
            self._checker.fail("S7", f"{process.name} takes a lease of {effect.lease} ns")
        if bounds and effect.vips:
            self._is_supported(process, effect.group, until, effect.lease, bounds)

    def _rest(self, process: Process, vips: Sequence[str]) -> None:
        if self.by_force and process.in_force is not None:
            self._rests_on.update({(process.machine.index, v): process.in_force for v in vips})

    def refreshed(self, process: Process, effect: Refresh, until: int) -> None:
        self._rest(process, effect.vips)
        for vip in effect.vips:
            self._nobody_else_announces(process.machine, vip, until)
            if self.holder.get(vip) == process.machine.id:
                self.ends[vip] = max(self.ends[vip], until)
        if bounds := self._checker.bounds(effect.group):
            self._is_supported(process, effect.group, until, bounds.lease, bounds)

    def released(self, process: Process, effect: Release) -> None:
        self._ended(process.machine, effect.vips, process.world.now)

    def lamed(self, process: Process, effect: Lame) -> None:
        for vip in effect.vips:
            self._lame.add((process.machine.index, vip))
        self._ended(process.machine, effect.vips, process.world.now)

    def power_lost(self, machine: Machine, now: int) -> None:
        self._ended(machine, [v for v, d in self.holder.items() if d == machine.id], now)
        self._lame = {(i, v) for i, v in self._lame if i != machine.index}

    def paused(self, machine: Machine, now: int) -> None:
        self._ended(machine, tuple(machine.kernel.announce), now)

    def resumed(self, machine: Machine, now: int) -> None:
        """Its clocks stood still, so its lease goes on: for what was left, and one renewal."""
        newest = self._checker.configs.newest
        slowest = max(INTERVAL_NS[a.slowest] for a in newest.assignments.values())
        self.ghosts[machine.index] = now + slowest * PROMISE_INTERVALS
        for vip, end in machine.kernel.announce.items():
            self._nobody_else_announces(machine, vip, end)
            if self.holder.get(vip) == machine.id:
                self.ends[vip] = end

    def is_ghost(self, index: int) -> bool:
        """Whether a device was paused and has gone on just now, so that it may announce still."""
        return self.ghosts.get(index, 0) > self._checker.world.now

    def _excused(self, machine: Machine, until: int, other: Machine, end: int) -> bool:
        """Whether one of two announcers was paused, and ends as soon as it must."""
        for index, over in ((machine.index, until), (other.index, end)):
            if self.is_ghost(index) and over <= self.ghosts[index]:
                return True
        return False

    def _heeds(self, machine: Machine, vip: str) -> Config | None:
        """What a device has in force; without an agent, what its kernel goes on by."""
        return self._checker.in_force(machine.id) or self._rests_on.get((machine.index, vip))

    def _ended(self, machine: Machine, vips: Sequence[str], now: int) -> None:
        for vip in vips:
            if self.holder.get(vip) == machine.id:
                self.ends[vip] = min(self.ends[vip], now)

    # The checks

    def _nobody_else_announces(self, machine: Machine, vip: str, until: int) -> None:
        """S1, and S9: others may only forward, and only after their own hand-over."""
        world = self._checker.world
        now = world.now
        for other in world.machines:
            if other is machine:
                continue
            end = other.kernel.announce.get(vip, 0)
            if end > now and self._excused(machine, until, other, end):
                self.pause_overlap = max(self.pause_overlap, min(end, until) - now)
                self._checker.seen["two owners after a pause"] += 1
            elif self._checker.parted(self._heeds(machine, vip), self._heeds(other, vip)):
                self._checker.seen["two owners by force"] += end > now
            elif end > now:
                self.overlap += min(end, until) - now
                left = (end - now) / MILLISECOND
                text = f"{vip}: {machine.index} announces while {other.index} does, {left:.3f} ms"
                self._checker.fail("S1", text)
            elif (
                other.kernel.accepts(vip, now)
                and (other.index, vip) not in self._lame
                and not (self.is_ghost(machine.index) or self.is_ghost(other.index))
            ):
                text = f"{vip}: {other.index} forwards beside {machine.index} without a hand-over"
                self._checker.fail("S9", text)

    def freezing(self, process: Process, config: Config) -> None:
        """A configuration comes into force: who was not primary of what is frozen is barred."""
        device, ballots = process.machine.id, process.machine.disk.ballots
        for uid, server in config.virtual_servers.items():
            if not server.frozen:
                self._barred.discard((device, uid))
            elif uid in ballots and ballots[uid].vote != device:
                self._barred.add((device, uid))

    def became_primary(self, process: Process, group: GroupId) -> None:
        """S8: drained, unfit and witness devices take nothing by themselves, nor what is frozen.

        One that turned so as the primary keeps what nobody else can take.
        """
        config, device = process.in_force, process.machine.id
        if (device, group) in self._barred:
            if not self._checker.votes.was_named(group, device):
                text = f"{process.name} takes {group}, frozen, of which it was not primary"
                self._checker.fail("S8", text)
            self._barred.discard((device, group))
        if config is None:
            return
        record = config.devices.get(device)
        if record is None or record.drained or record.witness:
            self._checker.fail("S8", f"{process.name} takes {group} although it is {record}")
        if group in self._checker.unfit.get(process.machine.index, ()):
            self._checker.fail("S8", f"{process.name} takes {group} although it is unfit")

    def _is_supported(
        self, process: Process, group: GroupId, until: int, lasts: int, bounds: Bounds
    ) -> None:
        """S5: a majority promised beyond the lease's end. S6: its beats were fresh, or the lease
        is shorter by as much. ``until`` in real time, ``lasts`` on the device's own clock."""
        checker, machine = self._checker, process.machine
        if self.is_ghost(machine.index):
            return
        voters = checker.voters(process, group)
        if not voters:
            return
        me, needed, promises = machine.id, majority(voters), checker.votes.promises
        term = self._terms.get((me, group), 0)
        fresh = self._fresh.get((me, group, term), {})
        now = machine.clock.local(checker.world.now)
        kept, sent = 0, []
        for voter in voters:
            if voter == me:
                kept += 1
                sent.append(now)
                continue
            promise = promises.get((voter, group))
            if promise and promise.holder == me and promise.until >= until:
                kept += 1
            sent.append(fresh.get(voter, 0))
        if kept < needed:
            text = f"{process.name}'s lease of {group} ends {until}, promises {promises}"
            checker.fail("S5", text)
        sent.sort(reverse=True)
        since = now - sent[needed - 1]
        if since + lasts > bounds.fresh + bounds.lease:
            age = since / MILLISECOND
            checker.fail("S6", f"{process.name} renews {group} on a round {age:.3f} ms old")
