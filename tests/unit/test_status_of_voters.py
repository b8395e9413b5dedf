"""What `halbctl status` says where devices only vote, or other numbers of them than wished for."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from protocol.ids import NO_REVISION, DeviceId
from tests.unit.test_status import REVISION, A, Site, W


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
