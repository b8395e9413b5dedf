"""A secondary whose connection table is full lacks flows, and says so until it has them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from contextlib import closing

import pytest

from agent.conntrack_limit import room
from agent.flowfollowing import BEHIND, FULL
from agent.flowtable import FlowTable
from protocol.effects import Event
from protocol.flows import RECORD, TCP, Behind, Flow
from tests.kernel.namespaces import UID
from tests.kernel.test_kept_flows import GATEWAY, NEW, OLD, PORT, VIP4, Third, inside
from tests.kernel.test_slots_that_move import PEER, config
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

MAX_FILLED = 300_000
"""Entries with which a test fills a table: in 5 s."""


class Agent:
    """Hears what a device says of itself."""

    def __init__(self) -> None:
        self.heard: list[Behind] = []

    def deliver(self, said: Behind) -> None:
        self.heard.append(said)

    def on_event(self, _: Event) -> None:
        """Nothing is made of it."""


def test_who_has_no_room_for_flows_says_so_until_it_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.flowfollowing.BEHIND_S", 0.2)
    monkeypatch.setattr("agent.flowfollowing.FULL_S", 0.1)

    def full(_: FlowTable, flows: Sequence[Flow]) -> dict[int, int]:
        return dict.fromkeys(range(len(flows)), errno.ENOMEM)

    async def test() -> None:
        agent = Agent()
        third = Third(agent)
        await third.start(config())
        third.follows(PEER.id)
        with monkeypatch.context() as patched:
            patched.setattr(FlowTable, "_enter", full)
            await third.is_told(PEER.id, OLD)
            source = third.flows._following._in[PEER.id]
            # All are asked for anew, long before they would be compared.
            await until(lambda: source.anew)
            await asyncio.sleep(0.2)
            assert agent.heard == [Behind(((UID, BEHIND),)), Behind(((UID, FULL),))]
        await third.is_told(PEER.id, OLD, NEW)
        assert agent.heard[2:] == [Behind()]
        assert third.kernel == {OLD, NEW}
        await third.flows.close()

    inside(test)


@pytest.mark.slow
def test_the_kernel_says_that_it_has_no_room() -> None:
    def filler(block: int, number: int) -> Flow:
        client, port = bytes([10, 78, *divmod(number, 256)]), (1024 + block).to_bytes(2, "big")
        return RECORD[4].pack(TCP, client, VIP4, port, PORT, GATEWAY, client, PORT, port, 0)

    async def test() -> None:
        with closing(FlowTable()) as table:
            now = room()
            if now is None or now.limit > MAX_FILLED:
                pytest.skip("the connection table of this host is too large to be filled")
            for block in range(now.limit // 1000 + 1):
                table.put([filler(block, number) for number in range(1000)])
            assert table.put([OLD, NEW]) == 2

    inside(test)
