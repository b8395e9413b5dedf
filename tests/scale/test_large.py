"""A Site above the limit of the full mesh: bounded views, gossip, relayed configuration."""

from __future__ import annotations

from protocol.overlay import LIMIT, MESH
from protocol.standing import PeerState
from tests.scale.site import VOTERS, Large, device_id

DEVICES = MESH + 6


def test_a_large_site_with_few_connections_learns_of_changes_and_deaths() -> None:
    site = Large(DEVICES, 5)
    site.run(12)
    alive = [site.knowing(device_id(n), PeerState.ALIVE) for n in (1, DEVICES // 2, DEVICES)]
    assert alive == [DEVICES - 1] * 3
    assert max(len(peers) for peers in site.dials.values()) <= LIMIT + 5 * VOTERS
    site.change(device_id(DEVICES))
    assert 0 <= site.until_changed(10) <= 5
    site.kill(device_id(20))
    assert 0 < site.until_dead(device_id(20), 40) <= 30
