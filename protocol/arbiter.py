"""May one of two devices serve alone? The decision, and its reason.

A majority of two is both. Where the operator says so, one of them may go on
without the other, on evidence from the network that clients use: an arbiter
that answers there shows that this device is not the one that is cut off, and a
VIP that nobody answers for shows that the other does not serve. The kernel
lease makes that test mean something: a dead or hung owner is silent, and a
live one whose links between the agents are cut answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from protocol.ids import DeviceId
from protocol.timing import Timing

QUIET_ROUNDS = 3
"""Rounds of questions for the VIPs, half an interval each, that nobody may answer."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What the operator chose for two devices."""

    devices: tuple[DeviceId, ...]
    """The two: either may serve alone, or might still by the voter list before."""
    arbiter: str | None
    """Address on the service segment that a device must reach to serve alone."""
    hold: bool
    """A secondary does not take over by itself."""
    wait_for_peer: bool
    """A device that started serves alone only after it has heard the other one."""


class Wait(StrEnum):
    """Why a device does not serve alone. Reaches the operator unchanged."""

    NONE = ""
    HEARS_PEER = "hears the other device"
    UNSEEN = "has not heard the other device since it started"
    HOLD = "waits for an operator, as `on_peer_loss` is `hold`"
    ARBITER = "gets no answer from the arbiter"
    CLAIMED = "hears another device serve by the voter list before"
    OWNED = "cannot be sure that nobody answers for the VIPs"


@dataclass(frozen=True, slots=True)
class Sight:
    """What a device sees of the other one. Times are its own clock, nanoseconds."""

    peer: int | None
    """When the other device was last heard on any link; None: not since the start."""
    arbiter: int | None
    """When the newest question was sent that the arbiter answered."""
    quiet: int
    """Rounds of questions for the VIPs in a row that nobody answered."""
    was_primary: bool
    """This device served last, as far as it knows."""
    forced: bool
    """An operator takes the responsibility for everything but a VIP that is answered."""
    claimed_until: int = 0
    """Until then one that claims by an older voter list may hold its lease."""


def why_not_ask(pair: Pair, sight: Sight, timing: Timing, now: int) -> Wait:
    """Why a secondary need not even ask for the VIPs yet."""
    if sight.peer is not None and now - sight.peer < timing.ask:
        return Wait.HEARS_PEER
    if sight.forced:
        return Wait.NONE
    if sight.peer is None and pair.wait_for_peer:
        return Wait.UNSEEN
    if pair.hold and not sight.was_primary:
        return Wait.HOLD
    return why_not_keep(pair, sight, timing, now)


def why_not_open(pair: Pair, sight: Sight, timing: Timing, now: int) -> Wait:
    """Why a device that a majority elects need not ask for the VIPs yet.

    One of two devices may serve alone by the voter list before, so an unanswered VIP must
    mean something here too: the segment lives, as the arbiter shows, and nobody says over the
    links that it serves. Where one of them has to wait for an operator, a majority has to as
    well. ``wait_for_peer`` and the silence of the other device are for one that acts without
    a majority: such a list may wait for a device that never comes back.
    """
    if now < sight.claimed_until:
        return Wait.CLAIMED
    if sight.forced:
        return Wait.NONE
    if pair.hold and not sight.was_primary:
        return Wait.HOLD
    return why_not_keep(pair, sight, timing, now)


def why_not_keep(pair: Pair, sight: Sight, timing: Timing, now: int) -> Wait:
    """Why a primary without the other device may not go on."""
    asked = sight.arbiter
    if pair.arbiter is not None and (asked is None or now - asked > timing.ask):
        return Wait.ARBITER
    return Wait.NONE


def why_not_take(pair: Pair, sight: Sight, timing: Timing, now: int) -> Wait:
    """Why a secondary may not take over alone."""
    if sight.peer is not None and now - sight.peer < timing.promise:
        return Wait.HEARS_PEER
    reason = why_not_ask(pair, sight, timing, now)
    if reason is Wait.NONE and sight.quiet < QUIET_ROUNDS:
        return Wait.OWNED
    return reason
