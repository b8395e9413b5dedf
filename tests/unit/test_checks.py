"""Health checks, against real sockets: servers that accept, refuse and hang."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import pytest

from agent.checks import Down, HealthChecks, Target, targets_of
from agent.probes import GOOD, Answer, Cancel, Done, Verdict
from protocol.health import check_for
from protocol.ids import GroupId
from protocol.objects import Check, Gateway, Listener, VirtualServer
from tests.unit.listening import listen, never, port_of, refusing_port, run, until

UID = GroupId("00000000000000aa")
OTHER = GroupId("00000000000000bb")
BAD = Answer(Verdict.BAD, "connection refused")
SILENCE = Answer(Verdict.BAD, "no answer in 1 s", silent=True)
QUICK = Check(interval=0.02, timeout=0.5)


def server_of(
    ports: Iterable[int], *gateways: Gateway, check: Check | None = QUICK, uid: GroupId = UID
) -> VirtualServer:
    listeners = tuple(
        Listener(protocol="tcp", port=port, gateway_port=port, check=check) for port in ports
    )
    return VirtualServer(
        uid=uid, name=f"vs-{uid}", vips=("10.0.0.1/24",), seed=1, gateways=gateways,
        listeners=listeners,
    )  # fmt: skip


def gateway(name: str = "gw1", address: str = "127.0.0.1") -> Gateway:
    return Gateway(name=name, address=address)


@dataclass
class Scripted:
    """Probes that answer when the test says so."""

    started: list[tuple[str, int]] = field(default_factory=list)
    open: dict[tuple[str, int], Done] = field(default_factory=dict)
    most_open: int = 0

    def start(
        self, loop: asyncio.AbstractEventLoop, address: str, port: int, check: Check, done: Done
    ) -> Cancel:
        key = (address, port)
        self.started.append(key)
        self.open[key] = done
        self.most_open = max(self.most_open, len(self.open))

        def cancel() -> None:
            del self.open[key]

        return cancel

    async def answer(self, port: int, answer: Answer, address: str = "127.0.0.1") -> None:
        await until(lambda: (address, port) in self.open)
        self.open.pop((address, port))(answer)
        await asyncio.sleep(0)


class TestPolicy:
    def test_a_tcp_listener_without_a_check_gets_a_plain_tcp_check(self) -> None:
        assert check_for(Listener(protocol="tcp", port=443, gateway_port=443)) == Check()

    def test_a_listener_keeps_its_own_check(self) -> None:
        own = Check(interval=9)
        assert check_for(Listener(protocol="udp", port=53, gateway_port=53, check=own)) is own

    def test_a_listener_that_says_so_is_not_checked(self) -> None:
        server = server_of([443], gateway(), check=Check(type="none"))
        assert targets_of(server) == {"gw1": {}}

    def test_a_udp_listener_without_a_check_follows_the_others(self) -> None:
        udp = Listener(protocol="udp", port=443, gateway_port=443)
        assert check_for(udp) is None

    def test_the_port_of_the_check_goes_before_that_of_the_gateway(self) -> None:
        server = server_of([443], gateway(), check=Check(port=8080))
        assert targets_of(server) == {"gw1": {Target("127.0.0.1", 8080, Check()): "tcp/443"}}

    def test_equal_checks_of_two_listeners_are_one(self) -> None:
        server = server_of([443, 444], gateway(), check=Check(port=8080))
        assert len(targets_of(server)["gw1"]) == 1

    def test_a_disabled_gateway_is_not_checked_and_a_draining_one_is(self) -> None:
        server = server_of(
            [443],
            Gateway(name="off", address="127.0.0.1", state="disabled"),
            Gateway(name="leaving", address="127.0.0.2", state="draining"),
        )
        assert targets_of(server).keys() == {"leaving"}


class TestHealthChecks:
    def test_tells_at_the_first_answer_that_a_gateway_is_down_and_why(self) -> None:
        async def test() -> None:
            told: list[Down] = []
            port = refusing_port()
            checks = HealthChecks(told.append, Random(1))
            with closing(checks), listen("127.0.0.1", port) as server:
                up, down = gateway(), gateway("gw2", "127.0.0.2")
                checks.set_targets([server_of([port_of(server)], up, down)])
                assert checks.down == frozenset(), "usable until the first answer"
                await until(lambda: told)
                assert told == [{(UID, "gw2")}]
                assert checks.reasons() == {(UID, "gw2"): f"tcp/{port}: connection refused"}

        run(test())

    def test_a_gateway_that_comes_back_rises(self) -> None:
        async def test() -> None:
            told: list[Down] = []
            port = refusing_port()
            checks = HealthChecks(told.append, Random(1))
            with closing(checks):
                checks.set_targets([server_of([port], gateway())])
                await until(lambda: told)
                with listen(port=port):
                    await until(lambda: len(told) == 2)
                assert told == [{(UID, "gw1")}, frozenset()]
                assert checks.reasons() == {}

        run(test())

    def test_a_gateway_that_dies_falls(self) -> None:
        async def test() -> None:
            told: list[Down] = []
            checks = HealthChecks(told.append, Random(1))
            with closing(checks):
                with listen() as server:
                    port = port_of(server)
                    checks.set_targets([server_of([port], gateway())])
                    await until(lambda: checks.made > 2)
                    assert told == []
                await until(lambda: told)
                assert told == [{(UID, "gw1")}]

        run(test())

    def test_a_gateway_is_down_if_any_of_its_listeners_is(self) -> None:
        async def test() -> None:
            checks = HealthChecks(lambda down: None, Random(1))
            refused = refusing_port()
            with closing(checks), listen() as server:
                checks.set_targets([server_of([port_of(server), refused], gateway())])
                await until(lambda: checks.down)
                assert checks.reasons() == {(UID, "gw1"): f"tcp/{refused}: connection refused"}

        run(test())

    def test_a_gateway_is_proved_once_each_of_its_checks_was_good(self) -> None:
        async def test() -> None:
            script = Scripted()
            checks = HealthChecks(never, Random(1), probes={"tcp": script.start})
            with closing(checks):
                checks.set_targets([server_of([80, 81], gateway())])
                await script.answer(80, GOOD)
                assert not checks.proved
                await script.answer(81, GOOD)
                await until(lambda: set(checks.proved) == {(UID, "gw1")})

        run(test())

    def test_an_equal_check_of_two_virtual_servers_is_made_once_and_counts_for_both(self) -> None:
        async def test() -> None:
            script = Scripted()
            told: list[Down] = []
            checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
            with closing(checks):
                slow = Check(interval=60)
                checks.set_targets(
                    [
                        server_of([80], gateway("a"), check=slow),
                        server_of([80], gateway("b"), check=slow, uid=OTHER),
                    ]
                )
                await script.answer(80, BAD)
                await until(lambda: told)
                assert told == [{(UID, "a"), (OTHER, "b")}]
                assert script.started == [("127.0.0.1", 80)]

        run(test())

    def test_unchanged_targets_keep_their_state_when_others_change(self) -> None:
        async def test() -> None:
            script = Scripted()
            told: list[Down] = []
            checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
            with closing(checks):
                old, new = gateway("old"), gateway("new", "127.0.0.2")
                checks.set_targets([server_of([80], old)])
                await script.answer(80, BAD)
                checks.set_targets([server_of([80], old, new)])
                assert checks.down == {(UID, "old")}
                await script.answer(80, GOOD, "127.0.0.2")
                await script.answer(80, GOOD)
                assert checks.down == {(UID, "old")}, "rise is 2"
                await script.answer(80, GOOD)
                await until(lambda: not checks.down)

        run(test())

    def test_a_gateway_that_is_disabled_or_removed_is_no_longer_down(self) -> None:
        async def test() -> None:
            script = Scripted()
            told: list[Down] = []
            checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
            with closing(checks):
                checks.set_targets([server_of([80], gateway())])
                await script.answer(80, BAD)
                await until(lambda: told)
                off = Gateway(name="gw1", address="127.0.0.1", state="disabled")
                checks.set_targets([server_of([80], off)])
                assert told == [{(UID, "gw1")}, frozenset()]
                assert script.open == {}

        run(test())

    def test_no_more_checks_are_under_way_than_allowed_and_all_get_their_turn(self) -> None:
        async def test() -> None:
            script = Scripted()
            checks = HealthChecks(
                lambda down: None, Random(1), probes={"tcp": script.start}, max_in_flight=2
            )
            ports = range(80, 90)
            with closing(checks):
                checks.set_targets([server_of(ports, gateway(), check=Check(interval=60))])
                for left in range(len(ports), 0, -1):
                    expected = min(left, 2)
                    await until(lambda: len(script.open) == expected)  # noqa: B023 - used at once
                    await script.answer(next(iter(script.open))[1], GOOD)
                assert sorted(port for _, port in script.started) == list(ports)
                assert script.most_open == 2

        run(test())

    def test_a_target_that_is_removed_while_it_waits_is_not_checked(self) -> None:
        async def test() -> None:
            script = Scripted()
            checks = HealthChecks(
                lambda down: None, Random(1), probes={"tcp": script.start}, max_in_flight=1
            )
            slow = Check(interval=60)
            with closing(checks):
                checks.set_targets([server_of([80, 81], gateway(), check=slow)])
                await until(lambda: len(checks._waiting) == 1)
                ((_, first),) = script.open
                checks.set_targets([server_of([first], gateway(), check=slow)])
                await script.answer(first, GOOD)
                assert script.started == [("127.0.0.1", first)]

        run(test())

    def test_a_first_silence_is_asked_about_at_once(self) -> None:
        async def test() -> None:
            script = Scripted()
            told: list[Down] = []
            checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
            silent = Answer(Verdict.BAD, "no answer in 1 s", silent=True)
            with closing(checks):
                checks.set_targets([server_of([80], gateway(), check=Check(interval=3600))])
                await script.answer(80, silent)
                assert checks.down == frozenset()
                await script.answer(80, silent)
                await until(lambda: told)
                assert told == [{(UID, "gw1")}]

        run(test())

    def test_many_gateways_that_fail_together_are_told_together(self) -> None:
        async def test() -> None:
            script = Scripted()
            told: list[Down] = []
            checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
            addresses = [f"127.0.1.{i}" for i in range(1, 21)]
            gateways = [gateway(f"gw{i}", a) for i, a in enumerate(addresses)]
            with closing(checks):
                checks.set_targets([server_of([80], *gateways, check=Check(interval=60))])
                await until(lambda: len(script.open) == 20)
                for done in list(script.open.values()):
                    done(BAD)
                await until(lambda: told)
                assert [len(down) for down in told] == [20]

        run(test())

    def test_says_why_checks_cannot_be_made_and_holds_it_against_nobody(self) -> None:
        async def test() -> None:
            script = Scripted()
            checks = HealthChecks(lambda down: None, Random(1), probes={"tcp": script.start})
            with closing(checks):
                checks.set_targets([server_of([80], gateway())])
                await script.answer(80, Answer(Verdict.UNCLEAR, "too many open files"))
                assert checks.troubles() == ("too many open files",)
                assert checks.down == frozenset()
                await script.answer(80, GOOD)
                assert checks.troubles() == ()

        run(test())

    def test_silence_says_nothing_about_gateways_while_the_connection_table_is_full(self) -> None:
        async def test() -> None:
            script, full = Scripted(), ["the table is full"]
            probes = {"tcp": script.start}
            checks = HealthChecks(
                lambda _: None, Random(1), probes=probes, crowded=lambda _: full[0]
            )
            with closing(checks):
                checks.set_targets([server_of([80], gateway())])
                await script.answer(80, GOOD)
                for _ in range(QUICK.fall):
                    await script.answer(80, SILENCE)
                assert (checks.troubles(), checks.down) == ((full[0],), frozenset())
                for _ in range(QUICK.fall):
                    await script.answer(80, BAD)
                assert checks.down, "what was heard of it counts"
                await script.answer(80, GOOD)
                await script.answer(80, GOOD)
                full[0] = ""
                for _ in range(QUICK.fall):
                    await script.answer(80, SILENCE)
                await until(lambda: checks.down)

        run(test())

    def test_bad_answers_say_nothing_about_gateways_while_this_host_is_cut_off(self) -> None:
        async def test() -> None:
            script = Scripted()
            checks = HealthChecks(never, Random(1), probes={"tcp": script.start})
            with closing(checks):
                checks.set_targets([server_of([80], gateway())])
                await script.answer(80, GOOD)
                checks.excuse = "interface eth0 has no carrier"
                for _ in range(QUICK.fall):
                    await script.answer(80, BAD)
                assert checks.troubles() == (checks.excuse,)
                await until(lambda: script.open)
                checks.excuse = ""
                await script.answer(80, BAD)
                assert checks.troubles(), "it was sent while the host was cut off"
                for _ in range(QUICK.fall - 1):
                    await script.answer(80, BAD)
                assert checks.troubles() == ()
                assert checks.down == frozenset()

        run(test())

    def test_after_close_nothing_is_checked_or_told(self) -> None:
        async def test() -> None:
            script = Scripted()
            checks = HealthChecks(never, Random(1), probes={"tcp": script.start})
            checks.set_targets([server_of([80], gateway())])
            await script.answer(80, BAD)
            checks.close()
            other = HealthChecks(lambda down: None, Random(1))
            with closing(other):
                other.set_targets([server_of([refusing_port()], gateway())])
                await until(lambda: other.made > 2)
            assert script.started == [("127.0.0.1", 80)]

        run(test())

    @pytest.mark.parametrize("kind", ["tcp", "tls"])
    def test_intervals_differ_within_the_jitter(self, kind: Literal["tcp", "tls"]) -> None:
        async def test() -> None:
            loop = asyncio.get_running_loop()
            checks = HealthChecks(lambda down: None, Random(1))
            waits = [checks._following(Check(type=kind)) - loop.time() for _ in range(200)]
            assert 1.7 < min(waits) < 1.9
            assert 2.1 < max(waits) < 2.4

        run(test())
