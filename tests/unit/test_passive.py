"""Half-open flows as evidence: what is news, whom it concerns, and that a check decides."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from agent.checks import Down, HealthChecks
from agent.passive import Evidence, HalfOpen
from agent.probes import GOOD, Answer, Verdict
from protocol.document import parse_virtual_server
from protocol.errors import InvalidInput
from protocol.objects import Check, Gateway, Listener, VirtualServer
from tests.unit.listening import run, until
from tests.unit.test_checks import UID, Scripted

VIP = "10.0.0.100"
KEY = (UID, "gw1")
BAD = Answer(Verdict.BAD, "no answer in 1 s")


def server_of(*listeners: Listener) -> VirtualServer:
    return VirtualServer(
        uid=UID,
        name="rdp",
        vips=(f"{VIP}/24",),
        seed=1,
        gateways=(Gateway(name="gw1", address="10.0.0.31"),),
        listeners=listeners,
    )


def listener(port: int = 443, *, passive: bool = True, check: Check | None = None) -> Listener:
    return Listener(protocol="tcp", port=port, gateway_port=port, passive=passive, check=check)


def flow(number: int, port: int = 443, vip: str = VIP, gateway: str = "10.0.0.31") -> HalfOpen:
    return HalfOpen(number.to_bytes(4, "big"), vip, port, gateway)


def test_a_flow_is_evidence_when_it_is_seen_twice_and_only_once() -> None:
    evidence, servers = Evidence(), [server_of(listener())]
    assert not evidence.of(servers, [flow(1)])
    assert evidence.of(servers, [flow(1), flow(2)]) == {(KEY, "tcp/443"): 1}
    assert evidence.of(servers, [flow(1), flow(2)]) == {(KEY, "tcp/443"): 1}
    assert not evidence.of(servers, [flow(1), flow(2)])
    assert not evidence.of(servers, [])
    assert not evidence.of(servers, [flow(1)]), "another flow from the same port"


@pytest.mark.parametrize(
    "strange", [flow(1, port=80), flow(1, vip="10.0.0.101"), flow(1, gateway="10.0.0.32")]
)
def test_flows_of_others_are_no_evidence(strange: HalfOpen) -> None:
    evidence, servers = Evidence(), [server_of(listener(), listener(80, passive=False))]
    evidence.of(servers, [strange])
    assert not evidence.of(servers, [strange])


def test_a_suspect_is_checked_at_once_and_one_bad_answer_will_do() -> None:
    async def test() -> None:
        script, told = Scripted(), list[Down]()
        checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
        slow = Check(interval=600, fall=5)
        checks.set_targets([server_of(listener(check=slow))])
        await script.answer(443, GOOD, "10.0.0.31")
        checks.suspect(KEY, "tcp/443", "no answer to 3 connections")
        await until(lambda: script.open)
        assert not checks.down, "evidence alone takes nothing down"
        await script.answer(443, BAD, "10.0.0.31")
        await until(lambda: checks.down)
        assert checks.reasons() == {KEY: "tcp/443: no answer in 1 s"}
        checks.close()

    run(test())


def test_a_good_answer_ends_the_suspicion() -> None:
    async def test() -> None:
        script = Scripted()
        checks = HealthChecks(lambda _: None, Random(1), probes={"tcp": script.start})
        checks.set_targets([server_of(listener(check=Check(interval=600, fall=2)))])
        await script.answer(443, GOOD, "10.0.0.31")
        for answer in (GOOD, GOOD):
            checks.suspect(KEY, "tcp/443", "no answer to a connection")
            await script.answer(443, answer, "10.0.0.31")
        assert len(script.started) == 3
        assert not checks.down
        checks.close()

    run(test())


def test_a_suspect_that_is_being_checked_is_not_checked_twice() -> None:
    async def test() -> None:
        script = Scripted()
        checks = HealthChecks(lambda _: None, Random(1), probes={"tcp": script.start})
        checks.set_targets([server_of(listener(check=Check(interval=600, fall=3)))])
        await script.answer(443, GOOD, "10.0.0.31")
        for _ in range(3):
            checks.suspect(KEY, "tcp/443", "no answer to a connection")
            await asyncio.sleep(0)
        await until(lambda: script.open)
        checks.suspect(KEY, "tcp/80", "another listener")
        assert len(script.started) == 2
        checks.close()

    run(test())


def test_only_tcp_can_be_passive() -> None:
    listeners = [{"protocol": "udp", "port": 53, "passive": True}]
    with pytest.raises(InvalidInput, match="passive"):
        parse_virtual_server({"name": "x", "vips": [VIP], "listeners": listeners})
