"""Who is to blame for a refused transaction, and taking wishes apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.distribution import Moment
from agent.rules import culprits
from agent.ruleset import Desired, joined
from protocol.ids import GroupId
from protocol.objects import VirtualServer

UIDS = [GroupId(f"{number:016x}") for number in range(40)]


@given(st.sets(st.sampled_from(UIDS)))
def test_exactly_the_refused_ones_are_found(bad: set[GroupId]) -> None:
    found = culprits(UIDS, lambda some: " and ".join(sorted(some & bad)))
    assert found == {uid: uid for uid in bad}


def test_of_two_that_exclude_each_other_one_is_accepted() -> None:
    pair = frozenset(UIDS[3:5])
    found = culprits(UIDS, lambda some: "both" if pair <= some else "")
    assert found == {UIDS[4]: "both"}


def test_one_among_a_thousand_takes_few_questions() -> None:
    many = [GroupId(f"{number:016x}") for number in range(1000)]
    asked = []

    def refuses(some: frozenset[GroupId]) -> str:
        asked.append(some)
        return "no" if many[700] in some else ""

    assert culprits(many, refuses) == {many[700]: "no"}
    assert len(asked) <= 21


def test_a_wish_is_the_sum_of_its_virtual_servers() -> None:
    servers = tuple(
        VirtualServer(uid=uid, name=uid, vips=(), gateways=(), listeners=(), seed=1)
        for uid in UIDS[:3]
    )
    keys = [(uid, "gw") for uid in UIDS[:3]]
    moment = Moment({keys[0]: 5}, {keys[1]: 50, keys[0]: 7}, frozenset({keys[2]}))
    whole = Desired(servers, {uid: (f"10.0.0.{n}",) for n, uid in enumerate(UIDS[:3])},
                    frozenset(keys[1:]), moment)  # fmt: skip
    apart = whole.alone()
    assert joined(apart.values()) == whole
    assert apart[UIDS[2]].down == {keys[2]}
    assert apart[UIDS[1]].moment == Moment({}, {keys[1]: 50})
