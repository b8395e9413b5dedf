"""What goes into the core and what comes out of it.

``Node.step(now, inputs)`` takes inputs and returns effects; the shell carries
the effects out **in order**. What a disk may take long for it does beside its loop:
the core itself holds back what must not be told before that is done.

Structs of msgspec, as messages are: made a hundred times a second, eight times as fast
as frozen dataclasses. No cycle runs through them, so the collector need not know them.
"""

from __future__ import annotations

from msgspec import Struct, field

from protocol.changes import Change
from protocol.config import Config
from protocol.conflicts import Conflict
from protocol.flows import Behind, Flush, Flushed
from protocol.ids import DeviceId, GroupId, Revision
from protocol.local import Local
from protocol.messages import Message
from protocol.objects import Device
from protocol.timing import SECOND, Profile


class Ballot(Struct, frozen=True, gc=False):
    """What a voter must not forget: its term and whom it voted for in it."""

    term: int = 0
    vote: DeviceId | None = None
    lost: bool = False
    """There was another one before, which is not known any more."""


# Inputs


class Received(Struct, frozen=True, gc=False):
    """A message from a device whose identity the transport has proven."""

    sender: DeviceId
    message: Message


class ConfigStored(Struct, frozen=True, gc=False):
    """A configuration handed out by :class:`PersistConfig` is durable."""

    revision: Revision


class ConfigApplied(Struct, frozen=True, gc=False):
    """The kernel of this device is as the committed ``revision`` says."""

    revision: Revision


class BallotsStored(Struct, frozen=True, gc=False):
    """All ballots up to the :class:`PersistBallots` of this number are durable."""

    number: int


class PersistFailed(Struct, frozen=True, gc=False):
    """The disk refused; the device stops voting until :class:`PersistWorks`."""


class PersistWorks(Struct, frozen=True, gc=False):
    """The disk takes writes again."""


class Fitness(Struct, frozen=True, gc=False):
    """Which Virtual Servers this device cannot carry now, and why (whole set)."""

    unfit: tuple[tuple[GroupId, str], ...] = ()
    outdated: tuple[tuple[GroupId, str], ...] = ()
    """Those that it carries worse than a device that is in order, and why: as they were before
    the newest change, or without a way back to distant clients."""


class GatewayHealth(Struct, frozen=True, gc=False):
    """(Virtual Server uid, gateway name) pairs that this device sees down (whole set)."""

    down: tuple[tuple[GroupId, str], ...] = ()


class Pace(Struct, frozen=True, gc=False):
    """How late the agent's loop wakes up, 99th percentile, nanoseconds."""

    late: int


class Lossy(Struct, frozen=True, gc=False):
    """Peers of whose beats many do not come in time (whole set). Shown only."""

    peers: tuple[DeviceId, ...]


class WallClock(Struct, frozen=True, gc=False):
    """Nanoseconds from the core's clock to Unix time: for planned moves, and for people."""

    offset: int


class LeaseLapsed(Struct, frozen=True, gc=False):
    """The kernel leases of these groups ran out, or could not be opened.

    A primary that is still confirmed opens them again by :class:`Acquire`.
    """

    groups: tuple[GroupId, ...]


class Paused(Struct, frozen=True, gc=False):
    """The whole machine stood still, its clocks too; handed in before what waited meanwhile.

    Whatever was confirmed or voted before is older than the clock says: the
    device gives up all that it holds or stands for. What it promised stays as
    long as its own clock says, which is longer than it need.
    """

    lost: int
    """Nanoseconds, about."""


class Probed(Struct, frozen=True, gc=False):
    """What became of the questions of a :class:`ProbeArbiter`.

    For a secondary one report at the end of the round; for a primary one at
    each answer.
    """

    group: GroupId
    at: int
    """When the first question of the round was sent (own clock)."""
    arbiter_answered: bool
    asked_vips: bool
    """The VIPs were asked for, all of them and to the end of the round."""
    vip_answered: bool
    """Somebody else has a VIP, or asks for it and goes first."""


class Force(Struct, frozen=True, gc=False):
    """Break glass: an operator tells this device to take over without the other one."""

    request: str
    virtual_server: str


class Propose(Struct, frozen=True, gc=False):
    """A change of the configuration, from an operator of this device."""

    request: str
    """Unique id; echoed in :class:`Outcome`."""
    change: Change
    if_revision: Revision | None
    unix_s: int
    """Wall clock, for expiry of tokens only."""
    timeout: int = 6 * SECOND
    """Nanoseconds until the request ends for want of a coordinator."""
    local: bool = False
    """Break glass: on this device only, until a coordinator is back."""


class Promote(Struct, frozen=True, gc=False):
    """Planned move of a Virtual Server to ``to`` (None: the best other device)."""

    request: str
    virtual_server: str
    to: str | None


class Recover(Struct, frozen=True, gc=False):
    """Give up voters that are lost for good; ``devices`` are the names of survivors."""

    request: str
    devices: tuple[str, ...]
    """Empty: all that this device hears."""
    unix_s: int = 0


class Adopt(Struct, frozen=True, gc=False):
    """Become part of a Site: the first configuration, from ``init`` or ``join``."""

    config: Config


class Stop(Struct, frozen=True, gc=False):
    """Clean stop: hand everything over, resign what nobody takes."""


class Resume(Struct, frozen=True, gc=False):
    """Undo :class:`Stop`: the device stays after all."""


class Dialled(Struct, frozen=True, gc=False):
    """A device, known by its key, has connected to this one."""

    device: DeviceId


Input = (
    Dialled | Received | ConfigStored | ConfigApplied | BallotsStored | PersistFailed
    | PersistWorks | Fitness | Behind | Flushed | GatewayHealth | Pace | Lossy | WallClock
    | LeaseLapsed | Paused | Probed | Propose | Promote | Force | Adopt | Stop | Resume | Recover
)  # fmt: skip


# Effects


class Send(Struct, frozen=True, gc=False):
    """Give the message to the transport, which may lose it."""

    to: DeviceId
    message: Message


class Connect(Struct, frozen=True, gc=False):
    """Keep connections to exactly these devices; any device of the Site may connect here.

    A message passes from one device to another once the *receiver* has
    connected to the sender, so the core connects to whoever does.
    """

    site: tuple[Device, ...]
    """All other devices: who may connect, and where they are."""
    peers: tuple[DeviceId, ...]


class PersistBallots(Struct, frozen=True, gc=False):
    """Write these ballots, which changed, durably, then hand in :class:`BallotsStored`.

    Ballots of other groups stay as they are on disk. One write may serve several of these
    effects, if it has the newest ballot of each group. On failure the shell hands in
    :class:`PersistFailed`, and tries again.
    """

    number: int
    """Grows by one with each of these effects."""
    ballots: dict[GroupId, Ballot]


class PersistConfig(Struct, frozen=True, gc=False):
    """Write the configuration durably, then hand in :class:`ConfigStored`. May be slow."""

    config: Config
    committed: Revision


class KeepConflict(Struct, frozen=True, gc=False):
    """Keep this for the operator, durably before any later :class:`PersistConfig`."""

    conflict: Conflict


class PersistLocal(Struct, frozen=True, gc=False):
    """Write the local edits of this device, or that there are none any more."""

    local: Local | None


class Apply(Struct, frozen=True, gc=False):
    """This configuration is now in force: make the kernel so.

    It is committed, except for what this device's operator changed by ``--local``.
    """

    config: Config


class Acquire(Struct, frozen=True, gc=False):
    """Open the kernel lease of all VIPs of a group, then announce them.

    Must not last beyond ``deadline + lease`` (own clock), when what confirmed it is too old.
    Where the shell would open it too late, it hands in :class:`LeaseLapsed` instead.
    """

    group: GroupId
    term: int
    vips: tuple[str, ...]
    lease: int
    """Timeout of the lease elements, nanoseconds."""
    deadline: int
    predecessor: DeviceId | None = None
    """Device that handed over, and goes on forwarding for ``DRAIN_NS``; None otherwise."""


class Refresh(Struct, frozen=True, gc=False):
    """Renew the kernel lease by the datagram that only renews what still lives.

    Must not be done after ``deadline`` (own clock). Where the lease is over by the time that one
    comes which may be done, the shell hands in :class:`LeaseLapsed`.
    """

    group: GroupId
    vips: tuple[str, ...]
    profile: Profile
    deadline: int


class Release(Struct, frozen=True, gc=False):
    """Close the kernel lease of these VIPs at once, both sets."""

    group: GroupId
    vips: tuple[str, ...]


class Lame(Struct, frozen=True, gc=False):
    """Stop announcing at once, go on forwarding for ``drain`` nanoseconds."""

    group: GroupId
    vips: tuple[str, ...]
    drain: int


class Announce(Struct, frozen=True, gc=False):
    """Tell the network once more that the VIPs, which this device holds, are here."""

    group: GroupId
    vips: tuple[str, ...]


class ProbeArbiter(Struct, frozen=True, gc=False):
    """Ask on the service segment, by ARP or neighbour discovery; answered by :class:`Probed`.

    Questions are spread over ``patience``. Of two devices that ask for one VIP
    the one with the lower hardware address goes first, and the other is told
    that the VIP is answered.
    """

    group: GroupId
    arbiter: str | None
    vips: tuple[str, ...]
    """Addresses that somebody else may have."""
    holding: bool
    """This device has the VIPs: only another owner that goes first matters, not questions."""
    patience: int
    """Length of the round, nanoseconds."""


class Outcome(Struct, frozen=True, gc=False):
    """The end of a :class:`Propose`, :class:`Promote` or :class:`Force` of this device."""

    request: str
    revision: Revision | None = None
    detail: str = ""
    """What was done, for people."""
    error: Exception | None = None
    """A :class:`protocol.errors.HalbError`, or None if done."""


class Event(Struct, frozen=True, gc=False):
    """Something worth remembering: for history and log."""

    kind: str
    """Such as ``primary released lame handover-aborted leader member move alone two-owners``."""
    group: GroupId | None
    text: str
    """One sentence."""
    term: int = 0
    device: DeviceId | None = None
    timeline: dict[str, int] = field(default_factory=dict)
    """Own clock, nanoseconds, by phase: ``silent``, ``asked``, ``voted``, ``won``, ``acquired``."""


class Stopped(Struct, frozen=True, gc=False):
    """Nothing is held any more: the shell may take the kernel state down and exit."""


Effect = (
    Send | Connect | PersistBallots | PersistConfig | KeepConflict | PersistLocal | Apply | Acquire
    | Refresh | Release | Flush | Lame | Announce | ProbeArbiter | Outcome | Event | Stopped
)  # fmt: skip
