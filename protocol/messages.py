"""The messages between devices; the transport knows their sender from its key.

Times are nanoseconds of the *sender's* clock, and are echoed only.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from protocol.api import HistoryEntry
from protocol.changes import Change
from protocol.clients import ClientsMessage
from protocol.flows import FlowsMessage
from protocol.hearsay import Copy, Fetch, Part, ProbeFor, Sync
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.objects import Record
from protocol.standing import Incarnation, PeerState

PROTOCOL_MIN = 1
"""Oldest protocol version that this release can speak."""
PROTOCOL_MAX = 1
"""Newest protocol version that this release can speak."""


class Reason(StrEnum):
    """Why a voter or a device says no. Reaches the operator unchanged."""

    NONE = ""
    NOT_VOTER = "is not a voter of this Virtual Server"
    STALE_TERM = "asked with an older term"
    STALE_VOTERS = "has an older list of voters"
    STALE_CONFIG = "has an older configuration"
    HEARS_PRIMARY = "still hears the primary"
    PROMISED = "has promised its vote to the primary for now"
    VOTED_OTHER = "voted for another device in this term"
    STARTING = "has just started and waits for promises it may have forgotten"
    DISK = "cannot write its votes to disk"
    UNKNOWN_GROUP = "does not know this Virtual Server yet"


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """\"I am primary of this group in this term\", within a beat."""

    group: GroupId
    term: int
    number: int
    """Number of the assignment (voter list) that the claim rests on."""
    interval: int
    """T of the primary, nanoseconds: promises are made for 3 T of whoever is slower."""


class Beat(msgspec.Struct, frozen=True, tag_field="t", tag="beat"):
    """Heartbeat of one device to another, for all groups that they share."""

    sent: int
    """Sender's clock, echoed in the ack: a lease counts from here."""
    interval: int
    """The sender's T towards this receiver, nanoseconds."""
    epoch: int
    """Number of the sender's list of claims; grows when the list changes."""
    claims: tuple[Claim, ...] | None
    """The list, or None where the receiver is known to have this epoch's."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """One claim that the receiver does not accept, with the term it knows."""

    group: GroupId
    term: int
    reason: Reason


class Ack(msgspec.Struct, frozen=True, tag_field="t", tag="ack"):
    """Answer to a beat, sent at once: renews all its claims but those refused."""

    echo: int
    """``sent`` of the beat; 0 where the beat's list of claims is not known: send it."""
    epoch: int
    """``epoch`` of the beat."""
    refused: tuple[Refusal, ...] = ()


class Ask(msgspec.Struct, frozen=True, tag_field="t", tag="ask", omit_defaults=True):
    """PreVote: would you vote for me in this term? Changes nothing at the voter."""

    group: GroupId
    term: int
    number: int
    revision: Revision
    stands: bool = False
    """No question any more: the vote is asked for once the sender's own is on disk."""


class Answer(msgspec.Struct, frozen=True, tag_field="t", tag="answer"):
    """Answer to :class:`Ask`."""

    group: GroupId
    term: int
    """``term`` of the Ask that is answered."""
    known_term: int
    """The voter's own term."""
    would_vote: bool
    reason: Reason


class Vote(msgspec.Struct, frozen=True, tag_field="t", tag="vote"):
    """Request for a vote, after the candidate persisted its own."""

    group: GroupId
    term: int
    number: int
    revision: Revision
    interval: int
    """T of the candidate, nanoseconds."""
    handover_term: int = 0
    """Term of the primary that handed over to this candidate; 0 without."""


class Voted(msgspec.Struct, frozen=True, tag_field="t", tag="voted"):
    """Answer to :class:`Vote`, after it was persisted."""

    group: GroupId
    term: int
    known_term: int
    granted: bool
    reason: Reason


class HandOver(msgspec.Struct, frozen=True, tag_field="t", tag="hand-over"):
    """The primary of ``term`` frees its voters, for ``to`` only."""

    group: GroupId
    term: int
    to: DeviceId


class Resign(msgspec.Struct, frozen=True, tag_field="t", tag="resign"):
    """The primary of ``term`` has released its lease and frees its voters."""

    group: GroupId
    term: int


class Append(msgspec.Struct, frozen=True, tag_field="t", tag="append"):
    """Coordinator to device: configuration records, from ``base`` to ``to``."""

    term: int
    """The coordinator's term."""
    base: Revision | None
    """Revision that the records build on; None: they are the whole configuration."""
    to: Revision
    records: tuple[Record, ...]
    epochs: tuple[tuple[int, int], ...]
    floor: Revision
    committed: Revision


class Stored(msgspec.Struct, frozen=True, tag_field="t", tag="stored"):
    """Device to coordinator: what it has on disk and in use."""

    term: int
    """The coordinator's term that this answers; acks of older terms do not count."""
    revision: Revision
    """On disk."""
    committed: Revision
    """Newest revision that is in force for the device's votes, also after a restart."""
    terms: tuple[tuple[GroupId, int], ...] = ()
    """Its terms in groups whose voters change: once that is in force, it votes in no older one."""


class Lead(msgspec.Struct, frozen=True, array_like=True):
    """One group that the sender is primary of, within :class:`Info`."""

    group: GroupId
    term: int
    since: int
    """Unix time in milliseconds; display only."""


MAX_UNHEARD = 16
MAX_FAULT = 160
MAX_LINKS = 64
"""Peers that a :class:`Report` tells of."""


class Info(msgspec.Struct, frozen=True, tag_field="t", tag="info"):
    """What a device tells all others about itself, each second and on change."""

    incarnation: int
    """Grows with each start of the agent."""
    version: str
    """Release of the agent, such as ``0.1.0``."""
    protocol_min: int
    protocol_max: int
    stored: Revision
    applied: Revision
    leads: tuple[Lead, ...]
    unfit: tuple[tuple[GroupId, str], ...]
    """Virtual Servers that the device cannot carry now, with the reason."""
    gateways_down: tuple[tuple[GroupId, str], ...]
    """(Virtual Server, gateway name) pairs that the device sees down."""
    stopping: bool = False
    """Last message of a clean stop: the device is shown as stopped, not dead."""
    late: tuple[tuple[GroupId, str], ...] = ()
    """Virtual Servers that the device is too slow for, with the reason: it is ranked last."""
    unheard: tuple[DeviceId, ...] = ()
    """Devices that it does not hear; at most :data:`MAX_UNHEARD`. Shown only."""
    lossy: tuple[DeviceId, ...] = ()
    """Devices of whose beats more than 5 % do not come in time on some connection."""
    serial: int = 0
    """Grows with each change, within one incarnation."""
    refuted: int = 0
    """Second part of the sender's :class:`Incarnation`."""
    behind: tuple[tuple[GroupId, str], ...] = ()
    """Virtual Servers whose flows the device is still being told, with the reason."""
    committed: Revision = NO_REVISION
    """Newest revision that the sender knows to be committed, and can pass on."""


class ProposeChange(msgspec.Struct, frozen=True, tag_field="t", tag="propose"):
    """An operator's change, from the device that took it to the coordinator."""

    id: str
    """Unique per request; a repeated id gets the recorded answer, not a second execution."""
    change: Change
    if_revision: Revision | None
    unix_s: int
    """Wall clock of the device that took the change: expiry of tokens, and display."""
    by: DeviceId = DeviceId("")
    """Device that took the change; display only."""


class RequestMove(msgspec.Struct, frozen=True, tag_field="t", tag="move"):
    """An operator's ``promote``, from the device that took it to the primary."""

    id: str
    group: GroupId
    to: DeviceId | None
    """None: the best other device."""
    term: int = 0
    """Term of the primary that is asked; in a later term the move has happened already."""


class Return(msgspec.Struct, frozen=True, tag_field="t", tag="return"):
    """Answer to :class:`ProposeChange` and :class:`RequestMove`."""

    id: str
    exit_code: int
    """A :class:`protocol.errors.ExitCode`; 0 is success."""
    detail: str
    """What was done, or what is wrong; one sentence."""
    remedy: str = ""
    revision: Revision | None = None


class Inquire(msgspec.Struct, frozen=True, tag_field="t", tag="inquire"):
    """Tell me what you know, for an operator of mine who asks. Changes nothing."""

    id: str
    group: GroupId | None = None
    """Also of this group; None: of no group."""
    hops: int = 0
    """In a large Site: so many steps more it is passed on to further devices."""
    to: tuple[DeviceId, ...] = ()
    """Devices that are to answer; empty: all."""


class Election(msgspec.Struct, frozen=True, array_like=True):
    """The last candidacy of a device in a group, within :class:`GroupReport`."""

    cause: str
    """Why it stood."""
    term: int
    ago_ms: int
    predecessor: DeviceId | None
    answers: tuple[tuple[DeviceId, Reason], ...]
    """PreVote: why a voter would not vote for it; empty if it would."""
    votes: tuple[tuple[DeviceId, Reason], ...]
    """Why a voter did not vote for it; empty if it did."""


class GroupReport(msgspec.Struct, frozen=True):
    """A device's part in one group, in its own words. Times are milliseconds until or since."""

    role: str
    term: int
    leader: DeviceId | None
    """Whose claims it accepts."""
    heard_ms: int
    """Since it last heard the primary, or had a reason to wait for one."""
    voted_for: DeviceId | None
    promised_to: DeviceId | None
    promise_ms: int
    """For so long it votes for nobody else; 0 where no promise binds."""
    confirmed_ms: int | None
    """Primary: age of the newest beat that a majority has acked; None on others."""
    step_down_ms: int | None
    """Primary: it gives up in so long if nobody acks; None on others."""
    unfit: str
    late: str
    damped_ms: int
    stored: Revision
    applied: Revision
    gateways: int
    """Healthy gateways that it sees."""
    refusals: tuple[tuple[DeviceId, str], ...]
    """Primary: to whom it could not hand over now, and why; and what others do better."""
    election: Election | None


class LinkReport(msgspec.Struct, frozen=True, array_like=True):
    """What a device hears of one peer. Shown only."""

    peer: DeviceId
    heard_ms: int | None
    """Since the newest message; None: never."""
    loss: tuple[int | None, ...]
    """Per connection: beats of 1000 that did not come in time; None where unknown."""
    round_trip_us: tuple[int, int] | None
    """Median and 99th percentile, microseconds; None where unknown."""


class GatewaySeen(msgspec.Struct, frozen=True, array_like=True):
    """A gateway as one device sees it. Shown only."""

    name: str
    checked: bool
    """Whether the device checks it."""
    fault: str
    """Why it is down, at most :data:`MAX_FAULT` characters; empty if it is not."""
    connections: int | None
    """Flows of that device's kernel, two seconds old at most; None where unknown."""


class Report(msgspec.Struct, frozen=True, tag_field="t", tag="report"):
    """Answer to :class:`Inquire`."""

    id: str
    links: tuple[LinkReport, ...]
    """At most :data:`MAX_LINKS`."""
    group: GroupReport | None = None
    by: DeviceId = DeviceId("")
    """Who reports, where others pass it on; empty: the sender."""
    gateways: tuple[GatewaySeen, ...] = ()
    """Of the Virtual Server that was asked about, if the device carries it."""
    mtu: int = 0
    """Of the service interface, bytes; 0 where there is none."""


class Moved(msgspec.Struct, frozen=True, tag_field="t", tag="moved"):
    """New primary to all: how a move went, for everyone's history."""

    entry: HistoryEntry
    hops: int = 0
    """In a large Site: so many steps more it is passed on to further devices."""


class Rumour(msgspec.Struct, frozen=True, array_like=True):
    """How one device stands, as far as the sender knows."""

    device: DeviceId
    incarnation: Incarnation
    state: PeerState
    by: tuple[DeviceId, ...] = ()
    """Who says so; empty where the device itself does."""
    info: Info | None = None


class News(msgspec.Struct, frozen=True, tag_field="t", tag="news"):
    """Rumours to a few neighbours, until each was sent often enough."""

    rumours: tuple[Rumour, ...]
    answer: bool = False
    """The receiver says what it knows better of these devices."""


class ProbeAck(msgspec.Struct, frozen=True, tag_field="t", tag="probe-ack"):
    """Answer to :class:`ProbeFor`."""

    number: int
    target: DeviceId
    heard: bool
    """False: "I work, but I do not hear it either"."""
    rumours: tuple[Rumour, ...] = ()


Message = (
    Beat | Ack | Ask | Answer | Vote | Voted | HandOver | Resign
    | Append | Stored | Info | ProposeChange | RequestMove | Return | Inquire | Report | Moved
    | News | ProbeFor | ProbeAck | Sync | Part | Fetch | Copy
    | FlowsMessage | ClientsMessage
)  # fmt: skip

ShellMessage = Moved | Inquire | Report | FlowsMessage | ClientsMessage
"""Messages that the shell deals with, and the core never sees."""

URGENT = (Beat, Ack, Ask, Answer, Vote, Voted, HandOver, Resign)
"""Messages of the lease plane: small, on their own sockets, on two connections."""
