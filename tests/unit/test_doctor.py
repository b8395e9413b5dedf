"""``halbctl doctor`` of what the agent knows already."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.doctor import known
from protocol.view import PeerState
from tests.unit.test_status import B, Site


@pytest.mark.parametrize("state", [PeerState.SUSPECT, PeerState.DEAD, PeerState.STOPPED])
def test_a_device_that_is_not_heard_is_named_once(state: PeerState) -> None:
    site = Site()
    site.states[B] = state
    site.facts = replace(site.facts, lease_enforced=False)
    found = [f for f in known("a", site.status()) if f.state != "ok"]
    assert [(f.check, "device b" in f.text) for f in found] == [("peers", True), ("agent", False)]
