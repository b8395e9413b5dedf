"""Of which groups a device may know more flows than their new primary."""

from __future__ import annotations

from agent.keptflows import WORTH_S, KeptFlows
from protocol.ids import GroupId

WEB, MAIL = GroupId("00000000000000aa"), GroupId("00000000000000bb")
BOTH = frozenset({WEB, MAIL})


def test_what_a_lost_primary_told_of_is_worth_keeping_for_a_while() -> None:
    flows = KeptFlows()
    flows.lost([WEB], heard=100.0)
    assert flows.worth(BOTH, 100.5) == {WEB}
    assert flows.worth(BOTH, 100.0 + WORTH_S) == frozenset()


def test_what_was_never_told_here_is_worth_nothing_from_the_first_second_of_the_clock_on() -> None:
    assert KeptFlows().worth(BOTH, 0.0) == frozenset()


def test_a_successor_that_has_told_of_its_flows_knows_them_best() -> None:
    flows = KeptFlows()
    flows.lost([WEB, MAIL], heard=100.0)
    flows.settle([WEB])
    assert flows.worth(BOTH, 100.5) == {MAIL}


def test_a_successor_that_was_lost_before_it_had_told_of_all_changes_nothing() -> None:
    flows = KeptFlows()
    flows.lost([WEB], heard=100.0)
    flows.lost([], heard=101.0)
    assert flows.worth([WEB], 102.0) == {WEB}
