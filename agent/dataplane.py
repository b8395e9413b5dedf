"""Making the kernel as the configuration wants it, and keeping it so.

Each pass compares what is there with what should be and applies the
difference; it never opens a lease. A VIP goes behind the gate before its
address is added, and the address goes before the gate does, so that no
device ever answers for a VIP without a lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent import addresses, door, gate, gatekeeper, placed, relay, ruleset, sysctl, ways
from agent.addresses import InterfaceMissing
from agent.backstop import Backstop
from agent.bookkeeping import Books
from agent.capability import require, require_kernel
from agent.conntrack import Flow, count_flows, flows_by_gateway
from agent.counters import Reading
from agent.doorkeeper import Doorkeeper
from agent.features import COUNTERS, DOOR, ELSEWHERE, MACS, Lack, features, lacks, why_off
from agent.gatekeeper import GateDrift, Gatekeeper, GateSeen
from agent.lease import KernelLease
from agent.listing import difference
from agent.macs import Macs
from agent.netlink import ruleset_generation
from agent.nft import KernelRefused, Nft, check
from agent.rules import Done, Parts, Rules
from agent.ruleset import Desired as Desired
from agent.shape import shape
from agent.sticky import StickyMaps
from agent.tracing import Evidence, Question, entry_of
from protocol.clients import Client
from protocol.ids import GroupId

_log = logging.getLogger("halb.kernel")
_ATTEMPTS = 3
"""Passes that follow each other at once where somebody removes our tables meanwhile."""
_TABLES = (
    ("netdev", ways.TABLE),
    ("inet", ruleset.TABLE),
    ("inet", door.TABLE),
    *relay.TABLES,
)


@dataclass(frozen=True)
class Reconciled:
    """What one pass did and found."""

    changed: tuple[str, ...] = ()
    """What was done, in words."""
    drift: tuple[str, ...] = ()
    """What somebody else had changed, in words; repaired already."""
    unfit: Mapping[GroupId, str] = field(default_factory=dict)
    """Virtual Servers that cannot be carried here now, with the reason."""
    outdated: Mapping[GroupId, str] = field(default_factory=dict)
    """Virtual Servers whose newest change the kernel refused; they are as they were before."""
    lease_lost: bool = False
    """The gate had to be made anew: leases that were open are closed."""
    moved: frozenset[GroupId] = frozenset()
    """Virtual Servers whose VIPs have another hardware address now: to be announced."""
    in_force: Desired = field(default_factory=Desired)
    """What the rules are of now: what was desired, but for what the kernel refused."""

    def then(self, later: Reconciled) -> Reconciled:
        """This pass and one right after it, in one."""
        return replace(
            later,
            changed=(*self.changed, *later.changed),
            drift=(*self.drift, *later.drift),
            lease_lost=self.lease_lost or later.lease_lost,
            moved=self.moved | later.moved,
        )


@dataclass(frozen=True)
class _Seen:
    """The kernel as it was after the newest pass."""

    generation: int
    rules: Mapping[str, str]
    gate: GateSeen
    direct: Mapping[str, str]
    index: int
    unread: Parts = frozenset()
    """Parts of ``rules`` and ``direct`` that we changed since, and did not read back yet."""

    @property
    def whole(self) -> bool:
        """Whether the tables are there that are always there."""
        return bool(self.rules) and all(self.gate.parts.values())

    def known(self, table: str, of: Parts) -> Mapping[str, str]:
        """One of the tables without the parts ``of`` that nothing can be said about."""
        parts = self.rules if table == ruleset.TABLE else self.direct
        return {name: digest for name, digest in parts.items() if (table, name) not in of}


@dataclass(frozen=True)
class _Drift:
    """What others changed, in words."""

    rules: tuple[str, ...] = ()
    gate: GateDrift = field(default_factory=GateDrift)
    others: tuple[str, ...] = ()
    """Of tables that no Virtual Server needs."""


class DataPlane:
    """Rules, addresses and settings of one service interface; used by one thread only."""

    def __init__(
        self, interface: str, listen: Sequence[str] = (), *, flow_marks: bool = True
    ) -> None:
        """``listen``: the ``IP:PORT`` of an agent, at which strangers are bounded."""
        self.interface = gate.check_interface(interface)
        self._nft = Nft()
        self._gate = Gatekeeper(self._nft, self.interface)
        self._sticky = StickyMaps(self._nft)
        self._books = Books(self._nft, flow_marks=flow_marks)
        self.door = Doorkeeper(self._nft, listen)
        self._macs = Macs(self._nft, self.interface)
        self._rules = Rules(self._nft, self._sticky, self.interface)
        self._placed = placed.Placed(self.interface)
        self._backstop = Backstop(time.monotonic)
        self._seen: _Seen | None = None
        self._former: Mapping[str, int] = {}
        self.lacks: tuple[Lack, ...] = ()
        """What this kernel cannot do, as of the newest preparation."""

    def prepare(self) -> None:
        """Check and set up all that a lease needs; keep what a killed agent left.

        What the kernel lacks beyond that is refused to those that need it.

        Raises KernelTooOld, CapabilityMissing, NftMissing, InterfaceMissing, SysctlRefused,
        KernelRefused or LeaseBroken, each with its remedy.
        """
        require_kernel()
        require(["CAP_NET_ADMIN", "CAP_NET_RAW"], "run a device of HALB")
        self._placed.leave_others()
        addresses.link(self.interface)
        self.lacks = (*lacks(features(self.interface), check), *self._backstop.prepare())
        for lack in self.lacks:
            if lack.feature.required:
                raise lack.error
            _log.warning("%s", lack)
        # Before anything is made: a note of what only the host can change would stay.
        sysctl.require_changeable(self.interface)
        self._macs.prepare(why_off(MACS, self.lacks))
        self._books.prepare(why_off(COUNTERS, self.lacks))
        self.door.prepare(why_off(DOOR, self.lacks))
        self._gate.prepare(why_off(ELSEWHERE, self.lacks))
        self._rules.begin(self.lacks)
        self._former = self._gate.former_settings()
        self._gate.load(self._former, anew=not self._gate.fits())
        sysctl.enforce(self.interface)
        lease = KernelLease(self.interface)
        try:
            lease.verify()
        finally:
            lease.close()

    def reconcile(self, desired: Desired) -> Reconciled:
        """Make the kernel as ``desired``; does nothing where it is so already.

        Raises :class:`InterfaceMissing` while there is no service interface, and
        KernelRefused if the kernel takes no rules; what cannot be done for one
        Virtual Server alone is in ``unfit``.
        """
        done = Reconciled()
        for attempt in reversed(range(_ATTEMPTS)):
            try:
                done = done.then(self._pass(desired))
            except KernelRefused:
                if not attempt or not self._gate.missing().words:
                    raise
                continue
            if self._seen is None or self._seen.whole:
                break
            # Somebody flushed all rules while this was at work: what is there is not what was made.
            self._forget()
        return done

    def _pass(self, desired: Desired) -> Reconciled:
        drift = self._drift()
        possible, unfit = placed.possible(desired, addresses.of_others())
        try:
            done = self._repair_and_change(drift, possible, unfit)
        except BaseException:
            # Half done by ourselves, which the next pass must not take for damage.
            self._forget()
            raise
        seen = self._seen
        behind = seen is not None and seen.generation != ruleset_generation()
        # What only chains and slots changed in is read back at rest: that takes a while.
        if seen is None or (behind if done.changed else seen.unread):
            self._seen = self._look()
        return done

    def _repair_and_change(
        self, drift: _Drift, desired: Desired, unfit: Mapping[GroupId, str]
    ) -> Reconciled:
        changed: list[str] = []
        if (drift.gate.words and not drift.gate.made) or self._seen is None:
            self._gate.load(self._former, anew=drift.gate.anew)
        if drift.gate.words:
            self._rules.forget_ways()
            self._macs.forget()
            changed.append("gate made anew" if drift.gate.anew else "gate mended")
        reset = tuple(f"{name} was changed" for name in sysctl.enforce(self.interface))
        guarded = self._guarded()
        # Also of what the kernel may refuse then: no VIP is ever balanced and not guarded.
        if unguarded := sorted(desired.addresses - guarded):
            self._gate.guard(unguarded)
            changed.append(f"gate closed for {', '.join(unguarded)}")
        turned = self._gate.look_inward(desired)
        done = self._set_rules(desired)
        changed += done.changed
        changed += self._macs.reconcile(done.desired)
        self._backstop.reconcile(done.desired)
        added, missing, homeless = self._placed.reconcile(done.desired)
        kept = desired.addresses | done.desired.addresses
        if stale := sorted((guarded | set(unguarded)) - kept):
            self._gate.unguard(stale)
            changed.append(f"gate forgets {', '.join(stale)}")
        turned |= self._gate.look_no_more(ruleset.joined((desired, done.desired)))
        turned |= self.door.reconcile()
        if self._books.reconcile(done.desired) or turned:
            self._seen = None
        found = (*drift.rules, *drift.gate.words, *drift.others, *reset, *missing)
        older = {uid: why for uid, why in done.refused.items() if uid in done.desired.vips}
        outdated = {**self._macs.refused, **older}
        new = {uid: why for uid, why in done.refused.items() if uid not in older}
        unfit = {**unfit, **homeless, **new}
        moved, words = self._macs.moved, (*changed, *added)
        return Reconciled(words, found, unfit, outdated, drift.gate.anew, moved, done.desired)

    def undisturbed(self) -> bool:
        """Whether nobody has changed any rules since the newest pass looked."""
        return self._seen is None or self._seen.generation == ruleset_generation()

    def connections(self) -> Mapping[tuple[GroupId, str], int]:
        """Live flows per (Virtual Server uid, gateway name), of the newest pass's ones.

        -1 where the kernel does not remember them.
        """
        return flows_by_gateway(self._rules.desired)

    def evidence(self, question: Question) -> Evidence:
        """What the kernel knows of one flow."""
        remembered = self._sticky.read(question.memory) if question.listener.sticky else {}
        return Evidence(self._rules.desired, entry_of(question), remembered.get(question.client))

    def clients(self, name: str) -> Mapping[str, Client]:
        """Sticky clients in the map ``name``, by address."""
        return self._sticky.read(name)

    def enter_clients(self, name: str, told: Iterable[Client]) -> None:
        """Remember sticky clients that another device told of."""
        before = ruleset_generation()
        self._sticky.enter(name, told)
        self._ours(before, 1)

    def traffic(self, active: bool = False) -> tuple[Reading, Mapping[Flow, int] | None]:
        """What the kernel counted, by VIP, listener and gateway; live flows where asked for."""
        flows = count_flows(self._rules.desired.addresses) if active else None
        reading, before = self._books.read(), ruleset_generation()
        self._ours(before, self._books.number_accounts() + self._books.close_accounts())
        return reading, flows

    def remove(self) -> None:
        """Leave nothing behind: addresses, tables and settings, also those of a killed agent."""
        former = self._former or self._gate.former_settings()
        for interface, vip in addresses.ours():
            addresses.remove(interface, vip)
        self._gate.remove()
        for table in _TABLES:
            self._nft.run(gate.removed(table))
        self._books.remove()
        self.door.forget()
        self._backstop.remove()
        self.close()
        sysctl.restore(self.interface, former)
        self._forget()
        self._placed, self._former = placed.Placed(self.interface), {}

    def close(self) -> None:
        """The kernel stays as it is, but frames to virtual MACs come no more."""
        self._macs.close()

    def _forget(self) -> None:
        """Nothing is known of the kernel: the next pass makes all of it anew."""
        self._rules.forget_rules()
        self._rules.forget_ways()
        self._macs.forget()
        self._seen = None

    def _guarded(self) -> frozenset[str]:
        """VIPs behind the gate, as the kernel says."""
        if self._seen is not None and self._seen.generation == ruleset_generation():
            return self._seen.gate.guarded
        return gatekeeper.behind_all(self._gate.vips())

    def _set_rules(self, desired: Desired) -> Done:
        before = ruleset_generation()
        done = self._rules.want(desired)
        if done.parts is not None:
            self._ours(before, done.transactions, done.parts)
        return done

    def _ours(self, before: int, count: int, parts: Parts = frozenset()) -> None:
        """So many transactions since a generation were ours, and changed nothing that is
        compared but ``parts``: if there were no others, the next pass need not look."""
        seen, after = self._seen, ruleset_generation()
        if seen and seen.generation == before == after - count:
            self._seen = replace(seen, generation=after, unread=seen.unread | parts)

    def _drift(self) -> _Drift:
        """What others changed since the newest pass.

        Costs one short question while no nftables transaction happened on the host.
        """
        index = self._index()
        if self._seen is None:
            # After a pass that failed half-way; somebody may have removed something just then.
            return _Drift(gate=self._gate.missing(), others=self._inspect_others())
        if index != self._seen.index:
            words = (f"interface {self.interface} was made anew",)
            return _Drift(gate=GateDrift(words, anew=True))
        if ruleset_generation() == self._seen.generation:
            return _Drift()
        # First, for until then this host answers for its VIPs: to read the rest takes a while.
        gone = self._gate.missing()
        if gone.anew:
            self._gate.load(self._former, anew=True)
        before, now = self._seen, self._look()
        rules, led = (
            difference(
                f"table {family} {table}",
                before.known(table, before.unread),
                now.known(table, before.unread),
            )
            for family, table in (("inet", ruleset.TABLE), ("netdev", ways.TABLE))
        )
        gated = replace(gone, made=True) if gone.anew else gatekeeper.drift(before.gate, now.gate)
        if rules:
            self._rules.forget_rules()
        if led:
            self._rules.forget_ways()
        self._seen = now
        return _Drift((*rules, *led), gated, self._inspect_others())

    def _inspect_others(self) -> tuple[str, ...]:
        return (*self._books.inspect(), *self.door.inspect())

    def _index(self) -> int:
        """The service interface's; where it is another one now, or none, what had VIPs has none."""
        try:
            index = addresses.link(self.interface).index
        except InterfaceMissing:
            self._placed.leave_others()
            raise
        if self._seen is None or index != self._seen.index:
            self._placed.leave_others()
        return index

    def _look(self) -> _Seen:
        """Read the kernel's state of our tables."""
        generation = ruleset_generation()
        return _Seen(
            generation,
            shape("inet", ruleset.TABLE),
            self._gate.look(),
            shape("netdev", ways.TABLE),
            addresses.link(self.interface).index,
        )
