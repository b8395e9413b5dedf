"""What a device knows at one moment, as frozen values for status and tests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from protocol.ids import DeviceId, GroupId, Revision
from protocol.local import Local
from protocol.messages import Info
from protocol.standing import PeerState

__all__ = ["GroupView", "NodeView", "PeerState", "PeerView", "Role"]


class Role(StrEnum):
    """What a device is to one group."""

    WAITING = "waiting"
    """Just started: answers, but grants nothing until old promises have run out."""
    SECONDARY = "secondary"
    CANDIDATE = "candidate"
    ELECT = "elect"
    """Won, but needs one fresh majority round before the lease may open."""
    PRIMARY = "primary"
    LAME_DUCK = "lame-duck"
    """Handed over: announces nothing, still forwards, and returns if no successor comes."""


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group as this device sees it."""

    group: GroupId
    role: Role
    term: int
    leader: DeviceId | None
    """Primary as far as this device knows (itself included); None while it knows of none."""
    number: int
    voters: tuple[DeviceId, ...]
    unfit: str
    """Why this device may not become primary; empty if it may."""
    since: int = 0
    """When the leader became it: Unix time in milliseconds, 0 where unknown. Display only."""
    late: str = ""
    """Why this device is ranked last; empty if it is not."""
    behind: str = ""
    """Why no planned move goes to this device for now; empty if one may."""
    damped: int = 0
    """For so long (nanoseconds) no device moves the group on its own."""
    alone: bool = False
    """This device is primary without the other one of two."""
    waits: str = ""
    """Why this device, one of two, does not serve without the other one; empty if it would."""
    unheard: bool = False
    """This device votes, and has not heard the primary for as long as a promise to it lasts."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One other device as this one sees it."""

    device: DeviceId
    state: PeerState
    heard: int | None
    """Own clock, nanoseconds, of the newest message; None if never."""
    info: Info | None
    by: tuple[DeviceId, ...] = ()
    """Who says that it is suspect or dead; empty where the device itself told its state."""
    since: int = 0
    """Own clock, nanoseconds, at which this device learnt of the state."""
    neighbour: bool = True
    """Whether this device is connected to it, or knows it by hearsay only."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """All that status is made of."""

    groups: tuple[GroupView, ...]
    """The coordinator group and all Virtual Servers, also those this device has no part in."""
    peers: tuple[PeerView, ...]
    stored: Revision
    committed: Revision
    coordinator: DeviceId | None
    local: Local | None = None
    """Break-glass edits of this device that no coordinator has ended yet."""
    lagging: tuple[DeviceId, ...] = ()
    """Devices that live, and do not get the newest configuration."""
