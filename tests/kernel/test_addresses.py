"""The addresses of a host as the kernel lists them, also while it has others taken away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent import addresses, netlink
from tests.kernel.namespaces import Inside, hosts

pytestmark = pytest.mark.kernel

FIRST = [f"10.77.1.{n}" for n in range(1, 51)]
OTHERS = [f"10.77.{net}.{n}" for net in range(2, 6) for n in range(1, 201)]


def test_addresses_that_stay_are_listed_while_others_are_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = netlink.messages
    left = list(FIRST)

    def meanwhile(data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Between the first part of the list and the others."""
        now, left[:] = left[:], []
        for vip in now:
            addresses.remove("eth0", vip)
        return messages(data)

    def look() -> set[str]:
        for vip in (*FIRST, *OTHERS):
            addresses.add("eth0", vip)
        monkeypatch.setattr("agent.netlink.messages", meanwhile)
        return {vip for _, vip in addresses.ours()}

    with hosts("a") as network:
        host = Inside(network, "a")
        missing = set(OTHERS) - host.call(look)
        assert not missing
        host.close()
