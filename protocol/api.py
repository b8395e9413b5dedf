"""The agent's control API: requests and replies between ``halbctl`` and ``halb-agent``.

Carried by msgpack over ZeroMQ: a request is one frame, ``Request``, a reply one, ``Reply``;
a watch has many. Requests over :data:`MAX_FRAME` bytes are refused. Field names are promises.
"""

from __future__ import annotations

import msgspec

from protocol.changes import Change
from protocol.conflicts import ConflictInfo as ConflictInfo
from protocol.conflicts import Conflicts as Conflicts
from protocol.conflicts import LostObject as LostObject
from protocol.conflicts import LostRequest as LostRequest
from protocol.contacts import Contacts, GetContacts, GetOperators, Operators
from protocol.control import API_VERSION as API_VERSION
from protocol.control import DEFAULT_CONTROL as DEFAULT_CONTROL
from protocol.control import MAX_FRAME as MAX_FRAME
from protocol.control import MAX_REPLY as MAX_REPLY
from protocol.control import WATCH_LEASE_S as WATCH_LEASE_S
from protocol.diagnosis import Diagnosis
from protocol.diagnosis import GetDoctor as GetDoctor
from protocol.ids import GroupId, Revision
from protocol.insight import Explain as Explain
from protocol.insight import Explanation, Gateways, Matrix, Traced
from protocol.insight import GetGateways as GetGateways
from protocol.insight import GetMatrix as GetMatrix
from protocol.traffic import Counters as Counters
from protocol.traffic import Metrics as Metrics

DEFAULT_PORT = 7480


class GetVersion(msgspec.Struct, frozen=True, tag_field="op", tag="version"):
    """Answered by :class:`VersionInfo`, also by an agent without a Site."""


class GetStatus(msgspec.Struct, frozen=True, tag_field="op", tag="status"):
    """Answered by :class:`Status`."""


class Watch(msgspec.Struct, frozen=True, tag_field="op", tag="watch"):
    """A stream of :class:`Status`: now, on each change, at least each ``interval`` seconds."""

    interval: float = 1.0


class KeepWatching(msgspec.Struct, frozen=True, tag_field="op", tag="keep-watching"):
    """Extends the client's watch; not answered."""


class Init(msgspec.Struct, frozen=True, tag_field="op", tag="init"):
    """Found a Site with this device as its first. Answered by :class:`Done`."""

    site: str


class Join(msgspec.Struct, frozen=True, tag_field="op", tag="join"):
    """Join the Site that issued the token. Answered by :class:`Done`."""

    token: str


class Leave(msgspec.Struct, frozen=True, tag_field="op", tag="leave"):
    """Hand everything over and leave the Site for good. Answered by :class:`Done`."""

    force: bool = False
    """Leave although nobody can be told."""


class CreateToken(msgspec.Struct, frozen=True, tag_field="op", tag="token-create"):
    """Answered by :class:`TokenCreated`."""

    ttl: int = 3600
    """Seconds, 1 to 2,592,000."""
    uses: int = 1
    """1 to 1000."""
    by: str = ""
    """Who asks over the network is named by the device that is asked, whatever stands here."""
    by_key: str = ""
    """So is his public key."""


class ListTokens(msgspec.Struct, frozen=True, tag_field="op", tag="token-list"):
    """Answered by :class:`Tokens`."""


class PutChange(msgspec.Struct, frozen=True, tag_field="op", tag="change"):
    """Change the configuration. Answered by :class:`Done`."""

    change: Change
    if_revision: str | None = None
    """``TERM.N`` of the Site that the change rests on; refused if it moved on."""
    dry_run: bool = False
    timeout: float = 5.0
    """Seconds that the client waits; why nothing was committed is told before they are over."""
    local: bool = False
    """Break glass: on the asked device only, and only while no coordinator can be reached."""
    force: bool = False
    """Remove a device although it runs, a gateway although it has connections."""


class Export(msgspec.Struct, frozen=True, tag_field="op", tag="export"):
    """The Site as a document. Answered by :class:`Exported`."""


class PromoteTo(msgspec.Struct, frozen=True, tag_field="op", tag="promote"):
    """Move a Virtual Server. Answered by :class:`Done` once it has moved."""

    virtual_server: str
    to: str | None = None
    wait: bool = False
    """Said by clients, and heeded by no agent: each waits."""
    timeout: float = 10.0


class Trace(msgspec.Struct, frozen=True, tag_field="op", tag="trace"):
    """Which gateway a flow goes to. Answered by :class:`protocol.insight.Traced`."""

    client: str
    port: int
    virtual_server: str
    listener: int | None = None
    """A port of it; None where there is only one listener."""
    protocol: str | None = None
    """tcp | udp; None: tcp if there is such a listener."""


class GetCounters(msgspec.Struct, frozen=True, tag_field="op", tag="counters"):
    """Answered by :class:`protocol.traffic.Counters`."""


class GetMetrics(msgspec.Struct, frozen=True, tag_field="op", tag="metrics"):
    """Answered by :class:`protocol.traffic.Metrics`."""


class Failover(msgspec.Struct, frozen=True, tag_field="op", tag="failover"):
    """Break glass: the asked device takes over without the other of two. Answered by :class:`Done`.

    Refused while the other device is heard, or somebody answers for a VIP.
    """

    virtual_server: str
    timeout: float = 10.0


class Recover(msgspec.Struct, frozen=True, tag_field="op", tag="recover"):
    """Give up voters that are lost for good. Answered by :class:`Done`."""

    site: str
    """Name of the Site, as the operator typed it."""
    devices: tuple[str, ...] = ()
    """Survivors by name; empty: all that this device hears."""


class GetHistory(msgspec.Struct, frozen=True, tag_field="op", tag="history"):
    """Answered by :class:`History`, oldest first."""

    virtual_server: str | None = None
    limit: int = 100


class GetConflicts(msgspec.Struct, frozen=True, tag_field="op", tag="conflicts"):
    """What this device had stored and the Site did not take. Answered by :class:`Conflicts`."""


Op = (
    GetVersion | GetStatus | Watch | KeepWatching | Init | Join | Leave | CreateToken | ListTokens
    | PutChange | Export | PromoteTo | Failover | GetHistory | GetConflicts | Explain | GetMatrix
    | GetGateways | Recover | GetCounters | GetMetrics | Trace | GetDoctor
    | GetOperators | GetContacts
)  # fmt: skip


class Request(msgspec.Struct, frozen=True):
    """One frame from the client."""

    v: int
    """:data:`API_VERSION` of the client."""
    id: str
    """Unique; echoed; at most :data:`protocol.wire.MAX_ID` characters. A repeated id of a change is
    answered, not done again."""
    op: Op


class Done(msgspec.Struct, frozen=True, tag_field="re", tag="done"):
    """The request was carried out."""

    detail: str
    """One sentence for people."""
    revision: str = ""
    changed: bool = True


class TokenCreated(msgspec.Struct, frozen=True, tag_field="re", tag="token"):
    """A join token, shown this once: nobody else keeps its secret."""

    token: str
    id: str
    expires_at: int
    """Unix time, seconds."""
    uses: int


class TokenInfo(msgspec.Struct, frozen=True):
    """One join token without its secret."""

    id: str
    expires_at: int
    """Unix time, seconds."""
    uses_left: int
    by: str = ""
    """Operator who made it; empty: somebody on a device."""


class Tokens(msgspec.Struct, frozen=True, tag_field="re", tag="tokens"):
    """Join tokens that are still stored, by id, without their secrets."""

    tokens: tuple[TokenInfo, ...]


class VersionInfo(msgspec.Struct, frozen=True, tag_field="re", tag="version"):
    """Who the agent is, and what it speaks."""

    agent: str
    protocol_min: int
    protocol_max: int
    device: str
    """Name of the device."""
    id: str
    site: str
    """Empty while the agent belongs to none."""


class ListenerStatus(msgspec.Struct, frozen=True):
    """One protocol and port of a Virtual Server."""

    protocol: str
    port: int
    gateway_port: int
    balance: str
    last_port: int = 0
    """Last of a range of ports; 0 where ``port`` is the only one."""


class GatewayStatus(msgspec.Struct, frozen=True):
    """One gateway as the answering device sees it."""

    name: str
    address: str
    state: str
    """up | down | draining | disabled"""
    weight: int
    connections: int
    """Flows of this device's kernel to this gateway; -1 where unknown."""
    reason: str = ""
    """Why it is not up, or not for all devices."""
    note: str = ""
    """Why it takes nothing although it is up, or less than its weight says."""


class VirtualServerDevice(msgspec.Struct, frozen=True):
    """What one device is to a Virtual Server."""

    name: str
    role: str
    """primary | secondary | witness"""
    eligible: bool
    reason: str
    """Why not eligible; empty if it is."""


class VirtualServerStatus(msgspec.Struct, frozen=True):
    """One Virtual Server: who serves it, and how well."""

    name: str
    vips: tuple[str, ...]
    state: str
    """ok | degraded | down"""
    primary: str | None
    term: int
    since: str | None
    """ISO 8601, UTC: when the primary became it."""
    profile: str
    devices: tuple[VirtualServerDevice, ...]
    listeners: tuple[ListenerStatus, ...]
    gateways: tuple[GatewayStatus, ...]
    reasons: tuple[str, ...] = ()
    """Why the state is not ok."""
    notes: tuple[str, ...] = ()
    """What moves it, or keeps it from moving: frozen, damped, preempt, late devices."""
    peer_loss: str = ""
    """With two voters, what one does without the other: arbiter ADDRESS | serve | hold | stop."""
    forwarding: str = "snat"
    """snat | routed | dsr"""
    inner_vips: tuple[str, ...] = ()
    """Addresses that the gateways route back through."""
    virtual_mac: str = ""
    """Hardware address that its VIPs keep; empty: that of the primary."""


class DeviceStatus(msgspec.Struct, frozen=True):
    """One device of the Site."""

    name: str
    id: str
    addresses: tuple[str, ...]
    state: str
    """alive | suspect | dead | stopped"""
    version: str
    drained: bool
    witness: bool
    revision: str
    """Configuration that it has applied; of a witness, that it has."""
    primary_of: int
    """Number of Virtual Servers that it is primary of."""


class Status(msgspec.Struct, frozen=True, tag_field="re", tag="status"):
    """The whole Site as the answering device sees it."""

    site: str
    revision: str
    """Newest committed configuration known here."""
    device: str
    """The device that answered."""
    coordinator: str | None
    virtual_servers: tuple[VirtualServerStatus, ...]
    devices: tuple[DeviceStatus, ...]
    warnings: tuple[str, ...]
    took_us: int = 0
    """Microseconds that the agent spent on the answer."""


class Exported(msgspec.Struct, frozen=True, tag_field="re", tag="exported"):
    """The Site as a document, and the revision that it was read at."""

    document: dict[str, object]
    """Form of :mod:`protocol.document`."""
    revision: str


class HistoryEntry(msgspec.Struct, frozen=True):
    """One thing that happened, as one device saw it."""

    at: int
    """Unix time, milliseconds."""
    kind: str
    virtual_server: str
    uid: GroupId | None
    device: str
    """Device that the entry is about."""
    reporter: str
    """Device that saw it."""
    term: int
    text: str
    timeline: dict[str, float] = {}
    """Milliseconds by phase: detection, election, lease, announcement, total."""


class History(msgspec.Struct, frozen=True, tag_field="re", tag="history"):
    """Entries, oldest first."""

    entries: tuple[HistoryEntry, ...]


Result = (
    Done | TokenCreated | Tokens | VersionInfo | Status | Exported | History | Conflicts | Contacts
    | Explanation | Gateways | Matrix | Counters | Metrics | Traced | Diagnosis | Operators
)  # fmt: skip


class Failure(msgspec.Struct, frozen=True):
    """Why a request was not carried out, and what to do about it."""

    exit_code: int
    """What halbctl ends with: :class:`protocol.errors.ExitCode`."""
    message: str
    remedy: str


class Reply(msgspec.Struct, frozen=True):
    """One frame to the client: a result or a failure, never both."""

    v: int
    id: str
    result: Result | None = None
    failure: Failure | None = None
    more: bool = False
    """More replies to the same request follow (watch)."""


def parse_revision(text: str | None) -> Revision | None:
    """``TERM.N`` or None to a value; raise InvalidInput otherwise."""
    return None if text is None else Revision.parse(text)
