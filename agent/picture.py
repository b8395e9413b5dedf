"""What one device knows at one moment, indexed once so that status is quick to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.assignment import carriers_of, wanted_voters
from protocol.config import Config
from protocol.electorates import least_revision
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Info
from protocol.objects import Assignment, VirtualServer
from protocol.told import Told
from protocol.view import GroupView, NodeView, PeerState, PeerView

GatewayKey = tuple[GroupId, str]
"""(uid of the Virtual Server, name of the gateway)."""
_NOTHING = Told()


@dataclass(frozen=True)
class Facts:
    """What the core does not know: this host, as the agent sees it."""

    device: DeviceId
    name: str
    """Of this device, also while it belongs to no Site."""
    version: str
    applied: Revision = NO_REVISION
    """Configuration that is in force in the kernel."""
    since: Mapping[GroupId, int] = field(default_factory=dict)
    """Unix time in milliseconds at which this device became primary of a group."""
    connections: Mapping[GatewayKey, int] | None = None
    """Live flows of this kernel per gateway; None where they are not known."""
    down: Mapping[GatewayKey, str] = field(default_factory=dict)
    """Gateways that this device sees down, with the reason."""
    shares: Mapping[GatewayKey, str] = field(default_factory=dict)
    """Why gateways take nothing although they are up, or less than their weight says."""
    unheard: tuple[DeviceId, ...] = ()
    """Devices that this one does not hear."""
    lossy: tuple[DeviceId, ...] = ()
    """Devices that this one hears badly."""
    lease_enforced: bool = True
    """Whether the kernel silences a VIP whose lease ran out."""
    drift: tuple[str, ...] = ()
    """What others changed in our part of the kernel, as found by the newest passes."""
    notes: tuple[str, ...] = ()
    """Anything else that an operator should know, one sentence each."""


class Picture:
    """A NodeView, a Config and Facts, with the look-ups that status needs."""

    def __init__(self, view: NodeView, config: Config, facts: Facts) -> None:
        self.view = view
        self.config = config
        self.facts = facts
        self.groups: dict[GroupId, GroupView] = {g.group: g for g in view.groups}
        self._peers: dict[DeviceId, PeerView] = {p.device: p for p in view.peers}
        infos = ((p.device, p.info) for p in view.peers if p.info is not None)
        self.infos: dict[DeviceId, Info] = dict(infos)
        self._told = {d: Told(info) for d, info in self.infos.items()}
        self.deaf = {
            device: (info.unheard, info.lossy)
            for device, info in self.infos.items()
            if info.unheard or info.lossy
        }
        """Devices that do not hear all others well: whom they do not hear, whom badly."""
        if facts.unheard or facts.lossy:
            self.deaf[facts.device] = (facts.unheard, facts.lossy)
        self._seen_down: dict[GatewayKey, set[DeviceId]] = {}
        told = {d: info.gateways_down for d, info in self.infos.items() if self.alive(d)}
        for device, down in {**told, facts.device: tuple(facts.down)}.items():
            for gateway in down:
                self._seen_down.setdefault(gateway, set()).add(device)
        self._carriers: dict[GroupId, tuple[DeviceId, ...]] = {}
        self._since = {
            (lead.group, device): lead.since
            for device, info in self.infos.items()
            for lead in info.leads
        }

    def name(self, device: DeviceId) -> str:
        """Name of a device; its id where the configuration does not know it."""
        if known := self.config.devices.get(device):
            return known.name
        return self.facts.name if device == self.facts.device else device

    def names(self, devices: tuple[DeviceId, ...] | list[DeviceId]) -> str:
        return ", ".join(self.name(device) for device in devices)

    def state(self, device: DeviceId) -> PeerState:
        """How ``device`` is seen from here; one never heard of is dead."""
        if device == self.facts.device:
            return PeerState.ALIVE
        peer = self._peers.get(device)
        return PeerState.DEAD if peer is None else peer.state

    def alive(self, device: DeviceId) -> bool:
        return self.state(device) is PeerState.ALIVE

    def unfit(self, device: DeviceId, group: GroupId) -> str:
        """Why ``device`` cannot carry the group now, by its own word; empty if it can."""
        if device == self.facts.device:
            return self.groups[group].unfit if group in self.groups else ""
        return self._told.get(device, _NOTHING).unfit.get(group, "")

    def late(self, device: DeviceId, group: GroupId) -> str:
        """Why ``device`` is ranked last in the group, by its own word; empty if it is not."""
        if device == self.facts.device:
            return self.groups[group].late if group in self.groups else ""
        return self._told.get(device, _NOTHING).late.get(group, "")

    def behind(self, device: DeviceId, group: GroupId) -> str:
        """Why no planned move goes to ``device`` now, by its own word; empty if one may."""
        if device == self.facts.device:
            return self.groups[group].behind if group in self.groups else ""
        return self._told.get(device, _NOTHING).behind.get(group, "")

    def lags(self, device: DeviceId) -> str:
        """That ``device`` lives and does not get the newest configuration; empty if it does."""
        if device not in self.view.lagging:
            return ""
        said = f"has only revision {self._in_force(device)} of the configuration"
        # What it tells of itself may be lost on the same way as what it is told.
        return said if device == self.facts.device else f"{said}, by what it told last"

    def lags_in(self, device: DeviceId, group: GroupId) -> str:
        """The same where it therefore would not be elected in the group."""
        lags = self.lags(device)
        return lags if lags and self._in_force(device) < least_revision(self.config, group) else ""

    def _in_force(self, device: DeviceId) -> Revision:
        info = self.infos.get(device)
        return self.view.committed if info is None else info.committed

    def primary(self, group: GroupId) -> DeviceId | None:
        """The primary, unless it is known to be gone, or none any more."""
        seen = self.groups.get(group)
        return self._unless_gone(group, seen.leader if seen else None)

    def coordinator(self) -> DeviceId | None:
        """The coordinator, unless it is known to be gone, or none any more."""
        return self._unless_gone(SITE_GROUP, self.view.coordinator)

    def _unless_gone(self, group: GroupId, leader: DeviceId | None) -> DeviceId | None:
        if leader is None or self.state(leader) in (PeerState.DEAD, PeerState.STOPPED):
            return None
        seen = self.groups.get(group)
        silent = seen is not None and seen.unheard
        # One that gave up for lack of others is still alive, and says so itself.
        ended = silent and self.alive(leader) and (group, leader) not in self._since
        return None if ended else leader

    def since(self, group: GroupId, device: DeviceId) -> int | None:
        """Unix time in milliseconds at which ``device`` became primary; None if unknown."""
        if device == self.facts.device:
            return self.facts.since.get(group)
        return self._since.get((group, device))

    def observers(self, gateway: GatewayKey) -> set[DeviceId]:
        """Devices that see the gateway down now."""
        return self._seen_down.get(gateway, set())

    def carriers(self, server: VirtualServer) -> tuple[DeviceId, ...]:
        """Devices that may carry the Virtual Server, best rank first."""
        found = self._carriers.get(server.uid)
        if found is None:
            found = self._carriers[server.uid] = carriers_of(self.config, server)
        return found

    def voters(self, server: VirtualServer) -> tuple[DeviceId, ...]:
        """Everyone with a part in the Virtual Server: as assigned, and as wanted."""
        wanted = wanted_voters(self.config, server)
        assigned = self.assignment(server.uid)
        extra = assigned.voters if assigned else ()
        return (*wanted, *(v for v in extra if v not in wanted))

    def assignment(self, uid: GroupId) -> Assignment | None:
        return self.config.assignments.get(uid)
