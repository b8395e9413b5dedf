"""One check of one gateway, against servers that accept, refuse and hang."""

from __future__ import annotations

import asyncio
import errno

import pytest

from agent.probes import GOOD, Answer, TcpProbe, Verdict, answer_for
from protocol.objects import Check
from tests.unit.listening import hang, listen, never, port_of, refusing_port, run

BAD = Answer(Verdict.BAD, "connection refused")


class TestTcpProbe:
    async def ask(self, address: str, port: int, within: float = 5.0) -> Answer:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        TcpProbe(loop, address, port, Check(timeout=within), answer.set_result)
        return await answer

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
    def test_a_server_that_accepts_is_good(self, address: str) -> None:
        async def test() -> None:
            with listen(address) as server:
                assert await self.ask(address, port_of(server)) == GOOD

        run(test())

    def test_a_server_that_refuses_is_bad(self) -> None:
        async def test() -> None:
            assert await self.ask("127.0.0.1", refusing_port()) == BAD

        run(test())

    def test_a_server_that_hangs_is_bad_after_the_timeout(self) -> None:
        async def test() -> None:
            with listen(backlog=0) as server:
                crowd = hang(server)
                answer = await self.ask("127.0.0.1", port_of(server), within=0.05)
                assert answer == Answer(Verdict.BAD, "no answer in 0.05 s", silent=True)
                for sock in crowd:
                    sock.close()

        run(test())

    def test_an_address_without_a_route_is_bad(self) -> None:
        async def test() -> None:
            answer = await self.ask("fe80::1", 1)  # link-local, without its link
            assert answer.verdict is Verdict.BAD

        run(test())

    def test_the_application_of_the_gateway_does_not_see_the_check(self) -> None:
        async def test() -> None:
            with listen() as server:
                assert await self.ask("127.0.0.1", port_of(server)) == GOOD
                with pytest.raises(BlockingIOError):
                    server.accept()

        run(test())

    def test_a_cancelled_probe_never_answers_and_leaves_no_socket(self) -> None:
        async def test() -> None:
            loop = asyncio.get_running_loop()
            with listen() as server:
                probe = TcpProbe(loop, "127.0.0.1", port_of(server), Check(), never)
                probe.cancel()
                probe.cancel()
                assert probe.sock is None
                await self.ask("127.0.0.1", port_of(server))

        run(test())

    def test_errors_of_this_host_are_not_held_against_the_gateway(self) -> None:
        assert answer_for(errno.EMFILE).verdict is Verdict.UNCLEAR
        assert answer_for(errno.ECONNREFUSED) == BAD
