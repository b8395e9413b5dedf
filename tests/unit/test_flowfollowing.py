"""What a secondary takes over from the streams of a primary that came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from agent.flowfollowing import Following
from agent.flowstream import Incoming
from agent.keptflows import WORTH_S
from protocol.flows import RECORD, TCP, Flow, FlowsPart, key_of
from protocol.ids import DeviceId, GroupId
from tests.unit.listening import run

LEADER, GROUP = DeviceId("b" * 16), GroupId("1" * 16)
CLIENT, VIP, GATEWAY = (bytes([10, 0, 0, n]) for n in (7, 9, 31))
FLOW: Flow = RECORD[4].pack(
    TCP, CLIENT, VIP, b"\x9c\x40", b"\x01\xbb", GATEWAY, VIP, b"\x01\xbb", b"\x9c\x40", 0
)


class Kernel:
    """A worker that is done at once, and a connection table that is empty."""

    def __init__(self) -> None:
        self.table = self

    def do(self, work: Callable[[], object], then: Callable[[object], None], _: object) -> None:
        then(work())

    def all(self, _: object) -> list[Flow]:
        return []

    def lately(self, *_: object) -> frozenset[bytes]:
        return frozenset()

    def put(self, *_: object, **__: object) -> int:
        return 0

    def prolong(self, _: object) -> None:
        """There is nothing to prolong."""

    remove = prolong


class Site:
    """One Virtual Server, whose primary is another device."""

    carried = frozenset({GROUP})

    def vips_of(self, groups: frozenset[GroupId]) -> frozenset[bytes]:
        return frozenset({VIP}) if groups else frozenset()

    def believed(self, _: DeviceId, groups: frozenset[GroupId]) -> frozenset[GroupId]:
        return groups

    def draining(self, *_: object) -> bool:
        return False

    def mine(self, _: float) -> frozenset[bytes]:
        return frozenset()

    def leads(self, *_: object) -> bool:
        return True


def test_what_a_primary_told_of_long_ago_is_not_missed_later() -> None:
    """It may have ended while nobody heard of it."""

    async def test() -> None:
        following = Following(
            lambda *_: None, cast(Any, Kernel()), cast(Any, Site()), lambda _: None
        )
        now = [100.0]
        following._loop = cast(asyncio.AbstractEventLoop, SimpleNamespace(time=lambda: now[0]))
        following._in[LEADER] = Incoming(frozenset({GROUP}))

        def comes(epoch: int, *, complete: bool, begun: bytes = b"") -> None:
            following.on_part(LEADER, FlowsPart(epoch, 1, complete, (GROUP,), begun))

        comes(1, complete=True, begun=FLOW)
        assert following.told(LEADER).keys == {key_of(FLOW)}
        now[0] += WORTH_S - 1
        comes(2, complete=False)
        assert following.told(LEADER).keys == {key_of(FLOW)}, "until all are told anew"
        now[0] += WORTH_S + 1
        comes(3, complete=False)
        assert not following.told(LEADER).covers(frozenset({VIP}))
        comes(4, complete=True)
        assert following.told(LEADER).covers(frozenset({VIP}))
        assert not following.told(LEADER).keys

    run(test())
