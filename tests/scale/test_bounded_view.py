"""What must not depend on whom a device is connected to, in a Site with bounded views.

The limits are made small, so that twenty devices are a large Site.
"""

from __future__ import annotations

import pytest

from protocol import overlay
from protocol.changes import DeleteVirtualServer, SetDevice
from protocol.effects import Outcome, Propose, Recover
from protocol.quorum import majority
from protocol.terms import TERM_LEAP
from protocol.timing import SECOND
from protocol.tombstones import Retention
from protocol.versions import SETTLED_NS, Gate
from tests.scale.site import Large, device_id

DEVICES = 20
LAST = device_id(DEVICES)


@pytest.fixture(autouse=True)
def _small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MESH": 8, "ACTIVE": 3, "LEAST_ACTIVE": 2, "LIMIT": 6}.items():
        monkeypatch.setattr(overlay, name, value)


def settled(servers: int = 0, **options: object) -> Large:
    site = Large(DEVICES, servers, **options)  # type: ignore[arg-type]
    site.run(15)
    most = max(len(peers) for peers in site.dials.values())
    assert most < DEVICES - 1, "the views are not bounded"
    return site


def outcome(site: Large, request: str, within: float = 20) -> Outcome:
    for _ in range(int(within * 10)):
        if request in site.outcomes:
            break
        site.run(0.1)
    return site.outcomes[request]


def gates(site: Large) -> set[int]:
    sites = [node.configuration.in_force.site for node in site.nodes.values()]
    return {each.protocol for each in sites if each is not None}


def test_the_gate_rises_though_the_coordinator_hears_few_devices_itself() -> None:
    site = settled(protocol=(1, 2))
    site.run(15)
    assert gates(site) == {2}


def test_a_device_that_died_far_from_the_coordinator_holds_the_gate_down() -> None:
    site = settled()
    site.kill(LAST)
    assert site.until_dead(LAST, 60) > 0
    for node in site.nodes.values():
        node.roster.protocol = (1, 2)
        node.configuration.gate = Gate(node.me, (1, 2))
    site.run(2 * SETTLED_NS / SECOND)
    assert gates(site) == {1}


def test_tombstones_are_collected_when_devices_far_away_have_passed_them() -> None:
    soon = Retention(shortest=2 * SECOND, longest=10**6 * SECOND, every=SECOND)
    site = settled(servers=1, retention=soon)
    (uid,) = site.config.virtual_servers
    name = site.config.virtual_servers[uid].name
    site.give(LAST, Propose("delete", DeleteVirtualServer(name), None, 0))
    assert outcome(site, "delete").error is None
    site.run(30)
    for node in site.nodes.values():
        assert not list(node.configuration.in_force.tombstones())


def test_survivors_far_from_each_other_recover_a_lost_majority() -> None:
    site = settled(servers=4)
    voters = site.config.site.voters if site.config.site else ()
    for lost in voters[: majority(voters)]:
        site.kill(lost)
    site.run(40)
    site.give(LAST, Recover("recover", ()))
    assert outcome(site, "recover").error is None
    site.run(10)
    configs = [node.configuration.in_force for node in site.nodes.values()]
    assert all(c.revision.term > TERM_LEAP for c in configs)
    alive = [d for d in voters if d in site.nodes]
    for config in configs:
        assert config.site is not None
        assert set(alive) <= set(config.site.voters) <= set(site.nodes)
    site.give(LAST, Propose("after", SetDevice("d20", drained=True), None, 0))
    assert outcome(site, "after").error is None


def test_recover_takes_no_virtual_server_from_voters_that_are_merely_far_away() -> None:
    site = settled(servers=6)
    before = {uid: a.voters for uid, a in site.config.assignments.items()}
    site.give(LAST, Recover("recover", ()))
    error = outcome(site, "recover").error
    assert error is not None
    assert "nothing is lost" in str(error)
    after = site.nodes[LAST].configuration.in_force.assignments
    assert {uid: a.voters for uid, a in after.items()} == before


def test_a_site_at_rest_has_nothing_to_tell_though_neighbours_come_and_go() -> None:
    site = settled()
    site.run(30)
    site.forget_counts()
    site.run(90)
    assert site.sent["Part"]
    assert not site.sent["News"]
