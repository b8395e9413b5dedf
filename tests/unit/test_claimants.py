"""What devices tell of their offices."""

from __future__ import annotations

from protocol.claimants import Claimants
from protocol.ids import NO_REVISION, DeviceId, GroupId
from protocol.messages import Info, Lead

A, B = DeviceId("a" * 16), DeviceId("b" * 16)
WEB = GroupId("1" * 16)


def told(*leads: Lead) -> Info:
    return Info(
        incarnation=1, version="0.1.0", protocol_min=1, protocol_max=1, stored=NO_REVISION,
        applied=NO_REVISION, leads=leads, unfit=(), gateways_down=(),
    )  # fmt: skip


def test_the_claim_of_the_newest_term_counts() -> None:
    claimants = Claimants()
    claimants.change(A, None, told(Lead(WEB, 3, 0)))
    claimants.change(B, None, told(Lead(WEB, 4, 0)))
    assert claimants.newest(WEB) == (B, Lead(WEB, 4, 0))


def test_the_newest_term_is_known_when_its_office_is_over() -> None:
    claimants = Claimants()
    held = told(Lead(WEB, 4, 0))
    claimants.change(B, None, held)
    claimants.change(B, held, told())
    assert claimants.newest(WEB) is None
    assert claimants.term(WEB) == 4


def test_terms_of_groups_that_are_gone_are_forgotten() -> None:
    claimants = Claimants()
    claimants.change(B, None, told(Lead(WEB, 4, 0)))
    claimants.keep({WEB})
    assert claimants.term(WEB) == 4
    claimants.keep(())
    assert claimants.term(WEB) == 0
