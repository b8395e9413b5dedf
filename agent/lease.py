"""The kernel lease: what lets this device answer for a VIP, and stops it without being asked.

Opening and closing are transactions; renewing is a marked datagram on ``lo``,
about 5 µs, that waits for no lock and renews only what still lives. A device that
is stopped, hung or cut off therefore falls silent when the timeout ends, and an
agent that wakes up later opens nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agent import gate, relay
from agent.clock import boottime
from agent.features import RELAY, Lack, why_off
from agent.gate import REFRESH_PORT
from agent.ipversion import SUFFIX
from agent.listing import elements
from agent.nft import KernelBusy, KernelRefused, Nft
from agent.renewal import Renewals
from protocol.errors import HalbError
from protocol.timing import DRAIN_NS, MILLISECOND, SECOND, Profile, Timing

_TRIAL = ("127.0.0.1", "::1")
"""Addresses that the lease is tried with: local, and never behind the gate."""
PATIENCE_S = 0.02
"""Small changes of the data plane take less, and are waited for."""
_BUSY_NS = 50 * MILLISECOND
"""A change that takes longer is waited for once, not by each of many leases."""
_TRIALS = 5
_MARGIN_NS = 100 * MILLISECOND
"""The kernel's timeouts end some milliseconds late."""
_TRIAL_DEADLINE_NS = 100 * MILLISECOND
_TOLERANCE_MS = 60
"""Timeouts end at a tick of the kernel's clock."""
_DURATION = re.compile(r"(\d+)(ms|[dhms])")
_LEASE_NS = {profile: Timing.of(profile).lease for profile in Profile}
_UNIT_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


class LeaseBroken(HalbError):
    """The kernel does not keep the lease as it was asked to; never serve with it."""


@dataclass(frozen=True)
class Held:
    """The lease as the kernel has it: milliseconds left per VIP."""

    announced: Mapping[str, int]
    """VIPs that ARP and neighbour discovery are answered for."""
    accepted: Mapping[str, int]
    """VIPs that packets are taken for."""


class KernelLease:
    """The lease of one interface; used by the loop's thread only.

    The tables are the data plane's: :meth:`DataPlane.prepare` makes them first.
    Methods raise :class:`KernelRefused` if the kernel does not do as asked.
    """

    def __init__(self, interface: str, lacking: Sequence[Lack] = ()) -> None:
        gate.check_interface(interface)
        self._can_relay = not why_off(RELAY, lacking)
        self._nft = Nft()
        self._busy_until = 0
        self._relays: dict[str, int] = {}
        """When (own clock, ns) what is sent on of each VIP has ended at the latest."""
        self._inherited = boottime() + DRAIN_NS + _MARGIN_NS
        """The same of what a killed agent may have begun."""
        self._over = boottime() + max(DRAIN_NS, *_LEASE_NS.values()) + _MARGIN_NS
        """When (own clock, ns) every lease is over that is not renewed until then."""
        self._renewals = Renewals()

    def acquire(self, vips: Sequence[str], lease_ns: int) -> None:
        """Open the lease of ``vips`` for ``lease_ns`` from now, in one transaction.

        Raises :class:`KernelBusy` where it would have to wait: a lease that opens late may
        meet that of another device, and who waits does not renew the leases in force.
        """
        now = boottime()
        patience = 0.0 if now < self._busy_until else PATIENCE_S
        try:
            self._nft.run(gate.acquire(vips, lease_ns), patience=patience)
        except KernelBusy:
            self._busy_until = now + _BUSY_NS
            raise
        self._lasts(lease_ns)

    def refresh(self, vips: Sequence[str], profile: Profile) -> None:
        """Renew the lease of ``vips`` for a profile's lease time, where it still lives.

        A lease that ran out stays closed, and that is no error.
        """
        self._renewals.send(vips, REFRESH_PORT[profile])
        self._lasts(_LEASE_NS[profile])

    def release(self, vips: Sequence[str]) -> None:
        """Close the lease of ``vips``, whether it is open or not: at once, or where other rules
        are being loaded for so long, wait until it is over by itself."""
        self._while_it_lasts(gate.release(vips))

    def relay(self, vips: Sequence[str], to: Sequence[str], drain_ns: int) -> None:
        """Send packets of flows that only the predecessor knows on to it, for ``drain_ns``."""
        self.end_relay(vips)
        script = relay.begin(vips, to, drain_ns) if self._can_relay else ""
        if script:
            self._nft.run(script, patience=PATIENCE_S)
            ends = boottime() + drain_ns + _MARGIN_NS
            self._relays.update(dict.fromkeys(vips, ends))

    def end_relay(self, vips: Sequence[str]) -> None:
        """Send nothing on any more, which is usually so already."""
        now = boottime()
        some = [vip for vip in vips if now < self._relays.pop(vip, self._inherited)]
        for script in relay.end(some):
            with suppress(KernelRefused):
                self._while_it_lasts(script)

    def lame(self, groups: Sequence[Sequence[str]], drain_ns: int) -> bool:
        """Stop announcing the VIPs of each group at once; go on taking packets for ``drain_ns``.

        False if the lease of some group ran out before: then that is closed and stays so.
        """
        vips = [vip for group in groups for vip in group]
        try:
            done = self._while_it_lasts(gate.lame(vips, drain_ns))
        except KernelRefused:
            if len(groups) > 1:
                each = [self.lame([group], drain_ns) for group in groups]
                return all(each)
            self.release(vips)
            return False
        if done:
            self._lasts(drain_ns)
        return done

    def _lasts(self, time_ns: int) -> None:
        self._over = max(self._over, boottime() + time_ns + _MARGIN_NS)

    def _while_it_lasts(self, script: str) -> bool:
        """Whether ``script`` was applied: not where it came to nothing meanwhile, as whoever
        waits renews no lease."""
        try:
            self._nft.run(script, patience=max(0, self._over - boottime()) / SECOND)
        except KernelBusy:
            return False
        return True

    def held(self) -> Held:
        """Read the lease back from the kernel."""
        one, other = (self._left(gate.ACCEPTED, family) for family, _ in gate.TABLES)
        both = {vip: min(one[vip], other[vip]) for vip in one.keys() & other.keys()}
        return Held(self._left(gate.ANNOUNCED), both)

    def verify(self) -> None:
        """Try opening, renewing and closing with harmless addresses.

        Raises :class:`LeaseBroken` if a timeout is not what was asked (an element
        without one would be a lease that never ends) or datagrams do not renew. On a machine
        so busy that the trial lease ends before it is looked at, that is tried again.
        """
        for _ in range(_TRIALS - 1):
            with suppress(LeaseBroken):
                self._try()
                return
        self._try()

    def _try(self) -> None:
        before, asked = 0, Timing.of(Profile.NORMAL).lease
        try:
            began = boottime()
            for version in (4, 6):
                self._nft.run(gate.acquire([_TRIAL[version == 6]], asked))
            self._expect(asked, before, began, "opened")
            for profile in (Profile.CALM, Profile.WAN):
                before, asked, began = asked, Timing.of(profile).lease, boottime()
                self.refresh(_TRIAL, profile)
                self._expect(asked, before, began, "renewed")
        finally:
            self.release(_TRIAL)

    def close(self) -> None:
        """Renew no more; the lease itself ends by its timeout."""
        self._renewals.close()

    def _left(self, name: str, family: str = "netdev") -> dict[str, int]:
        """Milliseconds left of each element, of both IP versions."""
        listings = (
            self._nft.list_timed("set", family, gate.TABLE, name + suffix)
            for suffix in SUFFIX.values()
        )
        found = (each.partition(" ") for listing in listings for each in elements(listing))
        return {vip: _milliseconds(times.partition("expires ")[2]) for vip, _, times in found}

    def _expect(self, asked_ns: int, before_ns: int, began: int, verb: str) -> None:
        """Wait until each trial element has what is left of ``asked_ns`` since ``began``, and
        more than the ``before_ns`` that it had at most; it takes microseconds."""
        asked, before = asked_ns // MILLISECOND, before_ns // MILLISECOND
        deadline = time.monotonic_ns() + _TRIAL_DEADLINE_NS
        while wrong := self._not_as_asked(asked, before, began):
            if time.monotonic_ns() > deadline:
                raise LeaseBroken(
                    f"the kernel lease cannot be trusted: {verb} for {asked} ms, "
                    f"but the kernel has {'; '.join(wrong)}",
                    "Is `lo` up, and does no other netdev chain drop or re-mark UDP ports "
                    f"{gate.REFRESH_PORTS} on it? Kernel 5.16 or newer is needed.",
                )

    def _not_as_asked(self, asked_ms: int, before_ms: int, began: int) -> list[str]:
        held = self.held()
        # A process that has to wait for a processor asks late, or reads late.
        passed = (boottime() - began) // MILLISECOND
        least = max(asked_ms - passed - _TOLERANCE_MS, before_ms + 1)
        return [
            f"{vip} {name} for {left.get(vip, 'no time')}"
            for name, left in (("announced", held.announced), ("accepted", held.accepted))
            for vip in _TRIAL
            if not least <= left.get(vip, -1) <= asked_ms
        ]


def _milliseconds(text: str) -> int:
    """A duration as nft prints it, such as ``1s500ms``; 0 for none."""
    return sum(int(number) * _UNIT_MS[unit] for number, unit in _DURATION.findall(text))
