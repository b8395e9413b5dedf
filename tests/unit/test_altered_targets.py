"""Of a new configuration only what was altered is looked at, and all is as if looked at anew."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import checks as module
from agent.checks import HealthChecks
from agent.probes import GOOD, Answer
from protocol.ids import GroupId
from protocol.objects import Gateway, VirtualServer
from tests.unit.listening import run
from tests.unit.scripted import scripted
from tests.unit.test_checks import BAD, OTHER, UID, gateway, server_of

GATEWAYS = st.builds(
    Gateway,
    name=st.sampled_from(["g1", "g2", "g3"]),
    address=st.sampled_from(["127.0.0.1", "127.0.0.2"]),
    state=st.sampled_from(["enabled", "disabled"]),
)
SERVERS = st.lists(
    st.builds(
        lambda uid, ports, gateways: server_of(ports, *gateways, uid=uid),
        st.sampled_from([UID, OTHER, GroupId("00000000000000cc")]),
        st.lists(st.sampled_from([80, 81]), unique=True, max_size=2),
        st.lists(GATEWAYS, unique_by=lambda each: each.name, max_size=3),
    ),
    unique_by=lambda each: each.uid,
    max_size=3,
)


def kept(checks: HealthChecks) -> Any:
    """What is asked, for whom, and which gateways there are."""
    users = {target: set(keys) for target, keys in checks._users.items()}
    return checks._gateways, users, checks._watched.keys()


@given(st.lists(SERVERS, min_size=1, max_size=4))
def test_after_any_changes_it_asks_what_one_that_starts_would(
    wishes: list[list[VirtualServer]],
) -> None:
    async def test() -> None:
        with scripted() as (_, checks), scripted() as (_, fresh):
            for wish in wishes:
                checks.set_targets(wish)
            fresh.set_targets(wishes[-1])
            assert kept(checks) == kept(fresh)
            assert checks.down == set()

    run(test())


def test_what_did_not_change_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[GroupId] = []
    targets_of = module.targets_of

    def counted(server: VirtualServer) -> Any:
        looked.append(server.uid)
        return targets_of(server)

    monkeypatch.setattr(module, "targets_of", counted)

    def servers(*ports: int) -> Collection[VirtualServer]:
        return [server_of([80], gateway()), server_of(ports, gateway(), uid=OTHER)]

    async def test() -> None:
        with scripted() as (_, checks):
            checks.set_targets(servers(80))
            checks.set_targets(servers(80))
            checks.set_targets(servers(80, 81))
            assert looked == [UID, OTHER, OTHER]

    run(test())


@pytest.mark.parametrize("answer", [GOOD, BAD])
def test_an_answer_that_comes_with_a_change_counts(answer: Answer) -> None:
    async def test() -> None:
        with scripted() as (script, checks):
            checks.set_targets([server_of([80], gateway())])
            await script.answer(80, answer)
            checks.set_targets([server_of([80], gateway()), server_of([81], uid=OTHER)])
            assert checks.down == ({(UID, "gw1")} if answer is BAD else set())
            assert set(checks.proved) == ({(UID, "gw1")} if answer is GOOD else set())

    run(test())
