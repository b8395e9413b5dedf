"""The messages between devices.

The sender is not part of a message: the transport knows it from the key that
the connection is pinned to, and hands it in beside the message. ``Beat`` and
``Ack`` travel on their own sockets, so that configuration never delays them;
see :data:`URGENT`. Terms and times are integers, times in nanoseconds of the
*sender's* clock: they are echoed, never compared with another device's clock.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from protocol.ids import DeviceId, GroupId, Revision
from protocol.objects import Record

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
    """``sent`` of the beat."""
    epoch: int
    """Newest list of claims of the receiver of this ack that its sender holds."""
    refused: tuple[Refusal, ...] = ()


class Ask(msgspec.Struct, frozen=True, tag_field="t", tag="ask"):
    """PreVote: would you vote for me in this term? Changes nothing at the voter."""

    group: GroupId
    term: int
    number: int
    revision: Revision


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
    applied: Revision
    """Newest committed revision that is in force in the device's kernel."""


class Lead(msgspec.Struct, frozen=True, array_like=True):
    """One group that the sender is primary of, within :class:`Info`."""

    group: GroupId
    term: int
    since: int
    """Unix time in milliseconds; display only."""


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


class Call(msgspec.Struct, frozen=True, tag_field="t", tag="call"):
    """A request of one device's operator to another device (coordinator, primary)."""

    id: str
    """Unique per request; a repeated id gets the recorded answer, not a second execution."""
    body: bytes
    """A :mod:`protocol.api` request in msgpack, at most 1 MiB."""


class Return(msgspec.Struct, frozen=True, tag_field="t", tag="return"):
    """Answer to :class:`Call`."""

    id: str
    body: bytes
    """A :mod:`protocol.api` reply in msgpack."""


class Moved(msgspec.Struct, frozen=True, tag_field="t", tag="moved"):
    """New primary to all: how a move went, for everyone's history."""

    event: bytes
    """A :class:`protocol.api.HistoryEntry` in msgpack."""


Message = (
    Beat | Ack | Ask | Answer | Vote | Voted | HandOver | Resign
    | Append | Stored | Info | Call | Return | Moved
)  # fmt: skip

URGENT = (Beat, Ack, Ask, Answer, Vote, Voted, HandOver, Resign)
"""Messages of the lease plane: small, on their own sockets, on two connections."""
