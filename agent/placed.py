"""VIPs on the service interface: put there, kept there, and those that cannot be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

from agent import addresses
from agent.netlink import NetlinkError
from agent.ruleset import Desired
from protocol.ids import GroupId

_log = logging.getLogger("halb.kernel")


def possible(desired: Desired, of_others: frozenset[str]) -> tuple[Desired, Mapping[GroupId, str]]:
    """``desired`` without VIPs that are the host's own addresses, and whom that makes unfit.

    The gate would cut the operator off from such an address.
    """
    if not desired.addresses & of_others:
        return desired, {}
    vips: dict[GroupId, tuple[str, ...]] = {}
    unfit: dict[GroupId, str] = {}
    for uid, assigned in desired.vips.items():
        taken = [vip for vip in assigned if str(ip_address(vip)) in of_others]
        vips[uid] = tuple(vip for vip in assigned if vip not in taken)
        if taken:
            unfit[uid] = f"VIP {taken[0]} is an address of this host already"
    return replace(desired, vips=vips), unfit


class Placed:
    """Of one interface; used by one thread only."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._vips: frozenset[str] = frozenset()
        """What was put there, or was there already."""

    def leave_others(self) -> None:
        """Take VIPs off every other interface, such as this one under another name.

        No gate stands before them there: it hangs on the name.
        """
        for interface, vip in addresses.ours():
            if interface != self._interface:
                addresses.remove(interface, vip)
                self._vips -= {vip}
                _log.warning("%s taken off %s, which has no gate", vip, interface)

    def reconcile(
        self, desired: Desired
    ) -> tuple[tuple[str, ...], tuple[str, ...], Mapping[GroupId, str]]:
        """Put VIPs on the interface and take stale ones off: (done, drift, unfit)."""
        vips = desired.addresses
        present = {vip for interface, vip in addresses.ours() if interface == self._interface}
        done: list[str] = []
        failed: dict[str, str] = {}
        for vip in sorted(vips - present):
            try:
                addresses.add(self._interface, vip)
                done.append(f"{vip} added to {self._interface}")
            except NetlinkError as error:
                failed[vip] = error.message
        for vip in sorted(present - vips):
            addresses.remove(self._interface, vip)
            done.append(f"{vip} removed from {self._interface}")
        # An operator's address that was given anew is behind those that stayed.
        for vip in addresses.in_front(self._interface):
            addresses.remove(self._interface, vip)
            addresses.add(self._interface, vip)
            done.append(f"{vip} put behind the own addresses of {self._interface}")
        missing = tuple(
            f"{vip} had been removed from {self._interface}"
            for vip in sorted((self._vips & vips) - present)
        )
        self._vips = vips - failed.keys()
        unfit = {
            uid: f"VIP {vip}: {failed[canonical]}"
            for uid, assigned in desired.vips.items()
            for vip in assigned
            if (canonical := str(ip_address(vip))) in failed
        }
        return tuple(done), missing, unfit
