"""A bundle of election messages over real sockets."""

from __future__ import annotations

import pytest

from protocol.bundle import MAX_BUNDLE, Bundle
from protocol.ids import GroupId, Revision
from protocol.messages import Ask
from tests.kernel.namespaces import Inside, hosts
from tests.kernel.transports import Device, run, started, until

pytestmark = pytest.mark.kernel


def test_a_bundle_is_heard_as_the_messages_in_it_in_their_order() -> None:
    asked = tuple(Ask(GroupId("c" * 16), n, 1, Revision(1, 1)) for n in range(MAX_BUNDLE))

    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            await until(lambda: b.count("duplicates") > 0, meanwhile=lambda: a.beat(b))
            b.got.clear()
            received = b.count("received")
            a.transport.send(b.id, Bundle(asked))
            await until(lambda: len(b.got) >= MAX_BUNDLE)
            assert b.got == [(a.id, each) for each in asked]
            assert b.count("received") == received + 1

    with hosts("a") as network:
        host = Inside(network, "a")
        run(host, scenario)
        host.close()
