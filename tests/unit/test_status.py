"""What ``halbctl status`` says, in which situation."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.picture import Facts
from agent.status import build_status
from protocol.api import Status, VirtualServerStatus
from protocol.config import Config
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Info, Lead
from protocol.objects import (
    Assignment,
    Device,
    Gateway,
    Listener,
    Record,
    SiteRecord,
    Value,
    VirtualServer,
    key_of,
)
from protocol.timing import Profile
from protocol.view import GroupView, NodeView, PeerState, PeerView, Role

if TYPE_CHECKING:
    from _typeshed import TraceFunction

A, B, C, W = (DeviceId(letter * 16) for letter in "abcd")
NAMES = {A: "a", B: "b", C: "c", W: "w"}
RDP = GroupId("0000000000000001")
REVISION = Revision(2, 7)


def info(device: DeviceId) -> Info:
    """What a healthy device tells; only ``b`` leads."""
    return Info(
        incarnation=1,
        version="0.1.0",
        protocol_min=1,
        protocol_max=1,
        stored=REVISION,
        applied=REVISION,
        leads=(Lead(RDP, 5, 1_700_000_000_000),) if device == B else (),
        unfit=(),
        gateways_down=(),
    )


def config_of(*values: Value) -> Config:
    keys = [key_of(value) for value in values]
    return Config(REVISION, {k: Record(*k, REVISION, v) for k, v in zip(keys, values, strict=True)})


class Site:
    """Three healthy devices a, b, c; b is primary of ``rdp``; seen from a."""

    def __init__(self, *, witness: bool = False) -> None:
        last = W if witness else C
        self.ids = (A, B, last)
        self.witnesses = (W,) if witness else ()
        self.devices = {
            d: Device(
                id=d, name=NAMES[d], public_key="k" * 40, addresses=(f"10.0.0.{i}:7480",),
                joined=i, witness=d == W,
            )
            for i, d in enumerate(self.ids, 1)
        }  # fmt: skip
        self.server = VirtualServer(
            uid=RDP,
            name="rdp",
            vips=("10.77.0.100/24",),
            witnesses=self.witnesses,
            gateways=(
                Gateway(name="gw1", address="10.77.0.31"),
                Gateway(name="gw2", address="10.77.0.32", weight=2),
            ),
            listeners=(Listener(protocol="tcp", port=443, gateway_port=8443),),
            seed=1,
        )
        self.assignment = Assignment(
            uid=RDP, number=1, voters=self.ids, vips=("10.77.0.100",),
            profile=Profile.NORMAL, slowest=Profile.NORMAL,
        )  # fmt: skip
        self.leader: DeviceId | None = B
        self.coordinator: DeviceId | None = A
        self.unfit = ""
        self.unheard = False
        self.stored = REVISION
        self.infos = {d: info(d) for d in self.ids[1:]}
        self.states = dict.fromkeys(self.ids[1:], PeerState.ALIVE)
        self.facts = Facts(
            device=A,
            name="a",
            version="0.1.0",
            applied=REVISION,
            connections={(RDP, "gw1"): 12},
        )

    def tell(self, device: DeviceId, **fields: object) -> None:
        self.infos[device] = msgspec.structs.replace(self.infos[device], **fields)

    def status(self) -> Status:
        return build_status(*self.seen())

    def seen(self) -> tuple[NodeView, Config, Facts]:
        config = config_of(
            SiteRecord(id="0" * 16, name="paris", voters=self.ids),
            *self.devices.values(),
            self.server,
            self.assignment,
        )
        groups = (
            GroupView(SITE_GROUP, Role.PRIMARY, 3, A, 1, self.ids, ""),
            GroupView(
                RDP, Role.SECONDARY, 5, self.leader, 1, self.ids, self.unfit, unheard=self.unheard
            ),
        )
        peers = tuple(PeerView(d, state, 1, self.infos.get(d)) for d, state in self.states.items())
        return NodeView(groups, peers, self.stored, REVISION, self.coordinator), config, self.facts

    def rdp(self) -> VirtualServerStatus:
        (server,) = self.status().virtual_servers
        return server


@pytest.fixture
def site() -> Site:
    return Site()


class TestHealthy:
    def test_a_virtual_server_is_ok(self, site: Site) -> None:
        rdp = site.rdp()
        assert (rdp.state, rdp.reasons) == ("ok", ())
        assert (rdp.name, rdp.primary, rdp.term) == ("rdp", "b", 5)
        assert rdp.since == "2023-11-14T22:13:20.000Z"
        assert rdp.profile == "normal"

    def test_shows_who_does_what(self, site: Site) -> None:
        shown = [(d.name, d.role, d.eligible, d.reason) for d in site.rdp().devices]
        assert shown == [
            ("a", "secondary", True, ""),
            ("b", "primary", True, ""),
            ("c", "secondary", True, ""),
        ]

    def test_shows_gateways_with_the_connections_of_this_device(self, site: Site) -> None:
        shown = [(g.name, g.state, g.weight, g.connections) for g in site.rdp().gateways]
        assert shown == [("gw1", "up", 1, 12), ("gw2", "up", 2, 0)]

    def test_shows_listeners(self, site: Site) -> None:
        (listener,) = site.rdp().listeners
        assert (listener.protocol, listener.port, listener.gateway_port) == ("tcp", 443, 8443)

    def test_shows_devices(self, site: Site) -> None:
        a, b, _ = site.status().devices
        assert (a.name, a.state, a.version, a.revision, a.primary_of) == (
            "a", "alive", "0.1.0", "2.7", 0,
        )  # fmt: skip
        assert (b.primary_of, b.id, b.addresses) == (1, B, ("10.0.0.2:7480",))

    def test_warns_of_nothing(self, site: Site) -> None:
        status = site.status()
        assert status.warnings == ()
        assert (status.site, status.revision) == ("paris", "2.7")
        assert (status.device, status.coordinator) == ("a", "a")

    def test_two_devices_and_a_witness_are_ok(self) -> None:
        rdp = Site(witness=True).rdp()
        assert rdp.state == "ok"
        assert [(d.name, d.role, d.reason) for d in rdp.devices][-1] == (
            "w", "witness", "votes only",
        )  # fmt: skip

    def test_since_of_this_device_comes_from_its_own_facts(self, site: Site) -> None:
        site.leader = A
        site.facts = replace(site.facts, since={RDP: 1_700_000_001_500})
        assert site.rdp().since == "2023-11-14T22:13:21.500Z"

    def test_unknown_connections_are_minus_one(self, site: Site) -> None:
        site.facts = replace(site.facts, connections=None)
        assert [g.connections for g in site.rdp().gateways] == [-1, -1]


class TestDown:
    def test_without_a_primary(self, site: Site) -> None:
        site.leader = None
        rdp = site.rdp()
        assert (rdp.state, rdp.primary, rdp.since) == ("down", None, None)
        assert rdp.reasons == ("no primary: an election is under way, or no device is eligible",)

    def test_a_primary_that_is_dead_is_none(self, site: Site) -> None:
        site.states[B] = PeerState.DEAD
        assert site.rdp().primary is None

    def test_names_the_voters_that_are_missing_for_a_majority(self, site: Site) -> None:
        site.leader = None
        site.states = {B: PeerState.DEAD, C: PeerState.STOPPED}
        assert site.rdp().reasons[0] == (
            "no primary: only 1 of 3 voters can be heard (missing: b, c)"
        )

    def test_while_no_device_is_assigned(self, site: Site) -> None:
        site.leader = None
        site.assignment = msgspec.structs.replace(site.assignment, uid=GroupId("f" * 16))
        rdp = site.rdp()
        assert rdp.state == "down"
        assert rdp.reasons[0] == ("no primary: the coordinator has not assigned it to devices yet")

    def test_when_no_gateway_can_take_a_connection(self, site: Site) -> None:
        gateways = (
            Gateway(name="gw1", address="10.77.0.31", state="draining"),
            Gateway(name="gw2", address="10.77.0.32", weight=0),
            Gateway(name="gw3", address="10.77.0.33", state="disabled"),
        )
        site.server = msgspec.structs.replace(site.server, gateways=gateways)
        rdp = site.rdp()
        assert rdp.state == "down"
        assert rdp.reasons == (
            "no gateway can take a connection (gw1 draining, gw2 weight 0, gw3 disabled)",
        )

    def test_without_gateways_or_listeners(self, site: Site) -> None:
        site.server = msgspec.structs.replace(site.server, gateways=(), listeners=())
        assert site.rdp().reasons == ("it has no listener", "it has no gateway")


class TestDegraded:
    def test_by_a_gateway_that_all_see_down(self, site: Site) -> None:
        site.facts = replace(site.facts, down={(RDP, "gw1"): "tcp/443: connection refused"})
        for device in (B, C):
            site.tell(device, gateways_down=((RDP, "gw1"),))
        rdp = site.rdp()
        assert rdp.state == "degraded"
        assert rdp.reasons == ("gateway gw1 is down: tcp/443: connection refused",)
        assert rdp.gateways[0].state == "down"

    def test_by_a_gateway_that_only_the_primary_sees_down(self, site: Site) -> None:
        site.tell(B, gateways_down=((RDP, "gw1"),))
        rdp = site.rdp()
        assert rdp.gateways[0].state == "down", "what the primary sees decides"
        assert rdp.reasons == ("gateway gw1 is down: down as seen from b",)

    def test_by_a_gateway_that_only_a_secondary_sees_down(self, site: Site) -> None:
        site.facts = replace(site.facts, down={(RDP, "gw1"): "tcp/443: no answer in 1 s"})
        rdp = site.rdp()
        assert rdp.gateways[0].state == "up"
        assert rdp.reasons == ("gateway gw1 is down as seen from a: tcp/443: no answer in 1 s",)

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            (PeerState.SUSPECT, "not heard for a moment"),
            (PeerState.DEAD, "not heard"),
            (PeerState.STOPPED, "stopped"),
        ],
    )
    def test_by_a_device_that_is_not_alive(self, site: Site, state: PeerState, words: str) -> None:
        site.states[C] = state
        assert site.rdp().reasons == (f"device c: {words}",)
        assert site.status().warnings == (f"device c: {words}",)

    def test_by_a_device_that_cannot_carry_it(self, site: Site) -> None:
        site.tell(C, unfit=((RDP, "eth0 has no carrier"),))
        rdp = site.rdp()
        assert rdp.reasons == ("device c: eth0 has no carrier",)
        assert rdp.devices[2].eligible is False

    def test_by_this_device_being_unfit(self, site: Site) -> None:
        site.unfit = "its disk refuses writes"
        assert site.rdp().reasons == ("device a: its disk refuses writes",)

    def test_by_having_only_two_voters(self, site: Site) -> None:
        site.server = msgspec.structs.replace(site.server, devices=(A, B))
        site.assignment = msgspec.structs.replace(site.assignment, voters=(A, B))
        (reason,) = site.rdp().reasons
        assert reason.startswith("it has two voters")

    def test_by_having_only_one_voter(self, site: Site) -> None:
        site.server = msgspec.structs.replace(site.server, devices=(B,))
        site.assignment = msgspec.structs.replace(site.assignment, voters=(B,))
        (reason,) = site.rdp().reasons
        assert reason.startswith("it has one voter")

    def test_by_having_no_device_that_could_take_over(self, site: Site) -> None:
        for device in (A, C):
            site.devices[device] = msgspec.structs.replace(site.devices[device], drained=True)
        rdp = site.rdp()
        assert rdp.reasons == ("no other device could take it over",)
        assert [d.reason for d in rdp.devices] == ["drained", "", "drained"]

    def test_by_a_vip_that_still_belongs_to_another(self, site: Site) -> None:
        site.assignment = msgspec.structs.replace(site.assignment, vips=())
        (reason,) = site.rdp().reasons
        assert reason == "10.77.0.100 waits until its former holder has let go of it"

    def test_by_a_family_without_a_gateway(self, site: Site) -> None:
        vips = ("10.77.0.100/24", "fd77::100/64")
        site.server = msgspec.structs.replace(site.server, vips=vips)
        site.assignment = msgspec.structs.replace(
            site.assignment, vips=("10.77.0.100", "fd77::100")
        )
        assert site.rdp().reasons == ("no gateway with an IPv6 address can take a connection",)

    def test_not_by_a_gateway_that_the_operator_took_out(self, site: Site) -> None:
        gateways = (
            Gateway(name="gw1", address="10.77.0.31", state="disabled"),
            Gateway(name="gw2", address="10.77.0.32", state="draining"),
            Gateway(name="gw3", address="10.77.0.33"),
        )
        site.server = msgspec.structs.replace(site.server, gateways=gateways)
        rdp = site.rdp()
        assert rdp.state == "ok"
        assert [g.state for g in rdp.gateways] == ["disabled", "draining", "up"]


class TestWarnings:
    def test_of_a_kernel_that_does_not_enforce_the_lease(self, site: Site) -> None:
        site.facts = replace(site.facts, lease_enforced=False)
        (warning,) = site.status().warnings
        assert "does not enforce the lease" in warning

    def test_of_different_releases(self, site: Site) -> None:
        site.tell(C, version="0.2.0")
        assert site.status().warnings == ("devices run different releases (0.1.0: a, b; 0.2.0: c)",)

    def test_of_a_missing_coordinator(self, site: Site) -> None:
        site.coordinator = None
        site.states[B] = PeerState.SUSPECT
        said = "no coordinator: the configuration cannot be changed until"
        assert site.status().warnings[-1] == f"{said} one is elected; missing: b"
        site.states[C] = PeerState.DEAD
        assert site.status().warnings[-1] == (
            f"{said} a majority of a, b, c can be heard; missing: b, c"
        )

    def test_of_a_revision_that_waits_for_its_commit(self, site: Site) -> None:
        site.coordinator = None
        site.stored = Revision(2, 8)
        assert site.status().warnings[-1] == "revision 2.8 is stored here but not committed"

    def test_of_drift_and_whatever_the_agent_noted(self, site: Site) -> None:
        site.facts = replace(site.facts, drift=("table gone",), notes=("history set aside",))
        assert site.status().warnings == ("drift on a: table gone", "history set aside")


def test_an_agent_without_a_site_has_a_status() -> None:
    view = NodeView((), (), NO_REVISION, NO_REVISION, None)
    status = build_status(view, Config(), Facts(device=A, name="a", version="0.1.0"))
    assert (status.site, status.device, status.revision) == ("", "a", "0.0")
    assert len(status.virtual_servers) + len(status.devices) + len(status.warnings) == 0


def steps_to_show(count: int) -> int:
    """Instructions of Python that a status of so many Virtual Servers takes."""
    site = Site()
    groups: list[GroupView] = []
    values: list[Value] = []
    for number in range(count):
        uid = GroupId(f"{number:016x}")
        gateways = tuple(Gateway(name=f"gw{i}", address=f"10.77.1.{i}") for i in range(1, 11))
        server = msgspec.structs.replace(
            site.server, uid=uid, name=f"vs{number}", gateways=gateways
        )
        values += [server, msgspec.structs.replace(site.assignment, uid=uid)]
        groups.append(GroupView(uid, Role.SECONDARY, 5, B, 1, site.ids, ""))
    config = config_of(
        SiteRecord(id="0" * 16, name="paris", voters=site.ids), *site.devices.values(), *values
    )
    peers = tuple(PeerView(d, PeerState.ALIVE, 1, site.infos[d]) for d in (B, C))
    view = NodeView(tuple(groups), peers, REVISION, REVISION, A)
    steps = 0

    def count_step(frame: FrameType, event: str, argument: object) -> TraceFunction:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return count_step

    before = sys.gettrace()
    sys.settrace(count_step)
    try:
        status = build_status(view, config, site.facts)
    finally:
        sys.settrace(before)
    assert len(status.virtual_servers) == count
    return steps


def test_the_work_for_a_status_grows_no_faster_than_the_site() -> None:
    assert steps_to_show(200) < 2.1 * steps_to_show(100)
