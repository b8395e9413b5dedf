"""The objects of a Site's configuration, as stored and replicated.

All are frozen; references between them are ids, never names. They are built
only by :mod:`protocol.changes`, which validates, so a reader may trust them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.ids import DeviceId, GroupId, Revision
from protocol.ports import Ports, ports_text
from protocol.timing import Profile

MAX_VOTERS = 7
"""Voters of one Virtual Server or of the Site's coordinator group."""
MAX_DEVICES = 1000
MAX_VIRTUAL_SERVERS = 1000
MAX_OPERATORS = 100
"""Operators of one Site."""
MAX_GATEWAYS = 100
"""Gateways of one Virtual Server."""
MAX_LISTENERS = 64
MAX_VIPS = 8
MAX_WEIGHT = 256
MAX_STICKY_S = 7 * 86_400
MAX_CONNECTIONS = 1_000_000
"""Largest limit on connections of a gateway."""
MAX_CLIENT_CONNECTIONS = 1000
"""Largest limit on connections of a client: the kernel walks through them at each new one."""
MAX_CLIENT_RATE = 100_000
MAX_SLOW_START_S = 3600
MAX_HANDLED = 256
"""Recent requests that a configuration remembers."""
MAX_DETAIL = 400
SLOTS = 256
"""Hash buckets of one listener."""
Balance = Literal["hash", "source-hash", "round-robin", "random", "least-connections"]
"""How a listener shares new flows among its gateways."""
PURE: frozenset[Balance] = frozenset(("hash", "source-hash"))
"""Policies by which every device comes to the same answer from the flow alone."""
Forwarding = Literal["snat", "routed", "dsr"]
"""What happens to a packet on its way to its gateway, and how the answer comes back."""


class SiteRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="site"):
    """The Site itself; exactly one exists. Its key is ``site``."""

    id: str
    """16 hex digits; part of every message, so that two Sites never mix."""
    name: str
    voters: tuple[DeviceId, ...]
    """Voters of the coordinator group. Changed one at a time."""
    protocol: int = 1
    """The Site's gate: the version that messages are encoded for. Never falls."""


class Device(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="device"):
    """A host that runs ``halb-agent``. Its key is its id."""

    id: DeviceId
    name: str
    public_key: str
    """CURVE public key, Z85, 40 characters."""
    addresses: tuple[str, ...]
    """``IP:PORT`` (or ``[IPv6]:PORT``) that peers connect to; two addresses are two links."""
    joined: int
    """Counter of the revision at which the device joined; orders devices by age."""
    witness: bool = False
    """Votes, but never carries a VIP."""
    drained: bool = False
    """Hands everything over and takes nothing; still votes."""


class Token(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="token"):
    """A join token; only a digest of its secret is stored. Its key is its id."""

    id: str
    digest: str
    """SHA-256 of the secret, 64 hex digits."""
    expires_at: int
    """Unix time, seconds."""
    uses_left: int
    by: str = ""
    """Name of the operator who made it over the network: it goes with him."""


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a gateway's health is checked for one listener."""

    type: Literal["tcp", "tls", "http", "https", "udp", "exec", "none"] = "tcp"
    interval: float = 2.0
    """Seconds between two checks."""
    timeout: float = 1.0
    """Seconds until an unanswered check counts as failed."""
    fall: int = 3
    """Failures in a row that take the gateway down."""
    rise: int = 2
    """Successes in a row that bring it back."""
    port: int | None = None
    """Port to check; the listener's gateway port where None."""
    name: str = ""
    """Server name that is asked for by TLS, and the host of an HTTP request; of the
    gateway's address where empty."""
    verify: bool = False
    """Whether the host's authorities must vouch for the certificate, and for its name."""
    expires_within: int = 0
    """A certificate with fewer days left fails."""
    path: str = "/"
    status: str = "200-399"
    """HTTP statuses that are good: ``200-299,301``."""
    body: str = ""
    """What the first 64 KiB of the answer must contain."""
    payload: str = ""
    """Datagram that is sent: text, or ``hex:`` and hex digits."""
    reply: str = ""
    """What an answering datagram must contain, as ``payload``; empty: none has to come."""
    command: tuple[str, ...] = ()
    """A program of the device's checks directory, and its arguments."""


Hashed = Literal["hash", "source-hash", ""]
"""By which hash a packet tells its gateway; empty where none does, and flows are remembered."""


class FormerHash(msgspec.Struct, frozen=True, array_like=True):
    """How a listener's flows found their gateway before that changed: :mod:`protocol.settling`."""

    balance: Hashed
    until: int
    """Unix seconds: until then connections stay where this led them."""
    gateway_port: int = 0
    """Where its gateways listened; 0: where they do now."""


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One protocol and port of a Virtual Server."""

    protocol: Literal["tcp", "udp"]
    port: int
    last_port: int = 0
    """Last port of a range that begins with ``port``; 0 where there is only that one."""
    gateway_port: int
    """Port on the gateways; equals ``port`` unless configured, and always for a range."""
    balance: Balance = "hash"
    sticky: int = 0
    """Seconds after its newest flow for which a client keeps its gateway; 0: not at all."""
    client_connections: int = 0
    """Most connections of one client at a time; 0: any number."""
    client_rate: int = 0
    """Most new connections of one client in a second; 0: any number."""
    check: Check | None = None
    passive: bool = False
    """Whether connections that a gateway does not answer have it checked at once."""
    former: FormerHash | None = None
    """Where connections must not follow another way of sharing them yet. May be over."""

    @property
    def key(self) -> str:
        """``tcp/443``, ``tcp/3000-3010``, ``tcp/all``: its name within its Virtual Server."""
        return f"{self.protocol}/{ports_text(self.ports)}"

    @property
    def ports(self) -> Ports:
        """First and last port."""
        return self.port, self.last_port or self.port

    @property
    def gateway_ports(self) -> Ports:
        """First and last port on the gateways."""
        return self.ports if self.last_port else (self.gateway_port, self.gateway_port)


class Former(msgspec.Struct, frozen=True, array_like=True):
    """What a gateway had of the slots before these moved; see :mod:`protocol.settling`."""

    weight: int
    """0: it took no flows."""
    until: int
    """Unix seconds: until then connections stay where these slots led them."""
    backup: bool | None = None
    """Its mark then; None: that of now."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the farm behind a Virtual Server."""

    name: str
    address: str
    """IPv4 or IPv6 address in canonical form; serves VIPs of its own family."""
    weight: int = 1
    """0 to 256; share of new flows. 0 takes none."""
    state: Literal["enabled", "draining", "disabled"] = "enabled"
    """``draining`` takes no new flows and keeps its own; ``disabled`` is not checked either."""
    backup: bool = False
    """Takes flows only while no gateway without this mark can."""
    drain_until: int | None = None
    """Deadline of a drain, Unix seconds: then the gateway is disabled, and flows that it
    still has are ended."""
    max_connections: int = 0
    """Most connections at a time, over all listeners; what exceeds it goes to others. 0: any."""
    seat: int | None = None
    """Its number among the gateways, from 0, kept for as long as it is one; see
    :mod:`protocol.seats`. None: none was given yet."""
    former: Former | None = None
    """Where connections must not follow its slots yet. May be over."""


class VirtualServer(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="virtual-server"
):
    """One service of the Site: VIPs, listeners, gateways and devices. Its key is its uid."""

    uid: GroupId
    name: str
    vips: tuple[str, ...]
    """``ADDRESS/PREFIX``; the prefix names the network that the VIP lies in."""
    devices: tuple[DeviceId, ...] = ()
    """In order of rank. Empty: all devices that are not witnesses, in order of joining."""
    witnesses: tuple[DeviceId, ...] = ()
    arbiter: str | None = None
    """Address on the service segment: of two devices, who reaches it may serve alone."""
    on_peer_loss: Literal["serve", "hold"] | None = None
    """Without an arbiter: one of two devices takes over alone, or waits for an operator."""
    wait_for_peer: bool = True
    """A device that starts serves alone only after it has heard the other one once."""
    profile: Profile = Profile.NORMAL
    forwarding: Forwarding = "snat"
    inner_vips: tuple[str, ...] = ()
    """``ADDRESS/PREFIX`` that gateways route back through, with ``routed``: one per IP
    version in use. They are where the primary is, as VIPs are."""
    gateways: tuple[Gateway, ...] = ()
    listeners: tuple[Listener, ...] = ()
    preempt: int = 0
    """Seconds for which a better-ranked device must be fit to be handed the Virtual
    Server; 0: never."""
    frozen: bool = False
    """No move but an operator's, and after a failure none but the last primary serves."""
    slow_start: int = 0
    """Seconds in which a gateway that came back grows to its full share; 0: at once."""
    virtual_mac: str = ""
    """Hardware address that the VIPs keep whoever is primary; empty: that of the primary."""
    seed: int
    """32-bit seed of the flow hash, the same on every device, made at creation."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The VIPs without their prefixes."""
        return tuple(vip.partition("/")[0] for vip in self.vips)

    @property
    def leased(self) -> tuple[str, ...]:
        """All that its primary answers for: VIPs and inner VIPs, without prefixes."""
        return (*self.addresses, *(vip.partition("/")[0] for vip in self.inner_vips))

    @property
    def decides_for_two(self) -> bool:
        """Whether it says what one of two devices does when it loses the other."""
        return self.arbiter is not None or self.on_peer_loss is not None


class Assignment(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="assignment"):
    """Who votes on a Virtual Server, and which addresses its lease covers.

    Written by the coordinator only. ``VirtualServer`` says what is wanted,
    this says what is in force; the coordinator moves it towards the wish one
    voter at a time, so that any two majorities in use overlap, and gives an
    address to a Virtual Server only after its former one let go of it.
    Its key is the uid of the Virtual Server.
    """

    uid: GroupId
    number: int
    """Grows by one with each change; older numbers are refused in elections."""
    voters: tuple[DeviceId, ...]
    vips: tuple[str, ...]
    """Addresses without prefix."""
    profile: Profile
    slowest: Profile
    """The slower of the former and the present profile, until settled."""
    former: tuple[DeviceId, ...] = ()
    """Voters before this number, until no lease can rest on them any more."""
    releasing: tuple[str, ...] = ()
    """VIPs given up with this number, until no lease can cover them any more."""
    lone: bool = False
    """The voters are two devices, and either may serve alone. Changed as voters are."""
    formerly_lone: bool = False
    """``lone`` before this number, until settled."""
    term: int = 0
    """No election of this term or an older one counts: with other voters it may have been held
    already, or voters were given up by force."""

    @property
    def settled(self) -> bool:
        """Whether the next change may begin."""
        return not self.former and not self.releasing


class Handled(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="handled"):
    """A request that was carried out: whoever coordinates answers a repeat of it.

    Only the newest :data:`MAX_HANDLED` are kept. Its key is the request's id.
    """

    id: str
    detail: str
    """What was done, for people; at most :data:`MAX_DETAIL` characters."""
    by: str = ""
    """Id of the device whose operator asked."""
    unix_s: int = 0
    """When, by that device's wall clock; display only."""


class PlannedMove(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="planned-move"):
    """A hand-over at a given time; at most one per Virtual Server, whose uid is its key.

    The primary of that time takes it out of the configuration first, and moves
    only when that is committed: so it happens at most once.
    """

    uid: GroupId
    id: str
    """Tells it from an earlier plan for the same Virtual Server."""
    at: int
    """Unix time, seconds."""
    to: DeviceId | None
    """None: the best other device."""


class Operator(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="operator"):
    """A person or program that may command the Site over the network. Its key is its name."""

    name: str
    public_key: str
    """CURVE public key, Z85, 40 characters; no device knows the secret half."""
    created_at: int
    """Unix time, seconds."""
    by: str = ""
    """Name of the operator who let him in over the network; empty: somebody on a device."""


Value = (
    SiteRecord | Device | Token | VirtualServer | Assignment | Handled | PlannedMove | Operator
)  # fmt: skip

Key = tuple[str, str]
"""(kind, key), such as ``("device", "0123456789abcdef")``."""

SITE_KEY: Key = ("site", "site")


def key_of(value: Value) -> Key:
    """The key that ``value`` is stored under."""
    match value:
        case SiteRecord():
            return SITE_KEY
        case Device():
            return ("device", value.id)
        case Token():
            return ("token", value.id)
        case VirtualServer():
            return ("virtual-server", value.uid)
        case Assignment():
            return ("assignment", value.uid)
        case Handled():
            return ("handled", value.id)
        case PlannedMove():
            return ("planned-move", value.uid)
        case Operator():
            return ("operator", value.name)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One object at one revision; ``value`` None is a tombstone."""

    kind: str
    key: str
    revision: Revision
    value: Value | None
