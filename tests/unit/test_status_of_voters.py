"""What `halbctl status` says where devices only vote, or other numbers of them than wished for."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from protocol.ids import NO_REVISION, DeviceId
from protocol.timing import Profile
from protocol.view import PeerState
from tests.unit.test_status import REVISION, A, B, C, Site, W


@pytest.mark.parametrize("seen_from", [A, W])
def test_a_witness_which_applies_nothing_shows_the_revision_that_it_has(
    seen_from: DeviceId,
) -> None:
    site = Site(witness=True)
    site.tell(W, applied=NO_REVISION, committed=REVISION)
    site.facts = replace(site.facts, device=seen_from, applied=NO_REVISION)
    assert site.status().devices[-1].revision == "2.7"


def test_what_is_for_two_voters_is_said_to_mean_nothing_among_three() -> None:
    site = Site()
    site.server = msgspec.structs.replace(site.server, arbiter="10.77.0.1")
    assert site.rdp().notes == ("`arbiter` means nothing while 3 devices vote: it is for two",)


def test_a_change_of_two_voters_that_waits_for_one_that_is_gone_is_said_so() -> None:
    site = Site()
    site.server = msgspec.structs.replace(site.server, on_peer_loss="serve")
    site.states[B] = PeerState.DEAD
    site.assignment = msgspec.structs.replace(site.assignment, former=(A, B), formerly_lone=True)
    (note,) = site.rdp().notes
    assert note.startswith("b may not know the newest list of voters")
    assert "`halbctl recover`" in note


def test_a_profile_that_waits_for_both_of_two_devices_is_said_so() -> None:
    site = Site()
    fast = Profile.FAST
    site.server = msgspec.structs.replace(site.server, on_peer_loss="serve", profile=fast)
    site.assignment = msgspec.structs.replace(site.assignment, voters=(A, B), lone=True)
    assert site.rdp().notes[0] == (
        "profile normal stays in force until both devices are there to agree on fast"
    )


@pytest.mark.parametrize("state", [PeerState.SUSPECT, PeerState.ALIVE])
def test_a_primary_that_is_not_heard_is_not_said_to_serve(state: PeerState) -> None:
    """This device votes, and so knows it sooner than anybody is suspected."""
    site = Site()
    site.states[B] = state
    site.unheard = state is PeerState.ALIVE
    rdp = site.rdp()
    assert (rdp.state, rdp.primary) == ("degraded", "b")
    assert rdp.reasons[0] == "b is not heard: whether it still serves is not known here"


def test_a_primary_that_gave_up_and_lives_is_none_any_more() -> None:
    """Too few heard it; this device hears it still, and has no other to follow."""
    site = Site()
    site.tell(B, leads=())
    assert site.rdp().state == "ok"
    site.unheard = True
    site.states[C] = PeerState.DEAD
    rdp = site.rdp()
    assert (rdp.state, rdp.primary) == ("down", None)
    assert rdp.reasons[0] == "no primary: an election is under way, or no device is eligible"
