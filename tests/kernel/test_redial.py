"""A peer that fell silent: what is dialled, and what is kept meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.kernel.namespaces import Inside, one_host
from tests.kernel.transports import Device, heard, run, started, until

pytestmark = pytest.mark.kernel

NO_NEW_ONES = (
    "add table inet cut; add chain inet cut c { type filter hook input priority 0; }; "
    "add rule inet cut c tcp flags & (syn | ack) == syn drop"
)


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


def nft(command: str) -> None:
    subprocess.run(["nft", command], check=True)


def connections(to: Device) -> int:
    """Established ones at its port for what is urgent."""
    only = ["state", "established", f"sport = :{to.port}"]
    found = subprocess.run(["ss", "-Htn", *only], check=True, capture_output=True, text=True)
    return len(found.stdout.splitlines())


async def dialled_anew(silent: Device, by: Device) -> None:
    """Several times, as nothing comes."""
    before = by.count("redials")
    await until(lambda: by.count("redials") > before + 3, meanwhile=lambda: by.beat(silent))


def test_who_was_silent_is_heard_again_where_no_new_connection_comes_about(host: Inside) -> None:
    """As where a connection table is full."""

    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            nft(NO_NEW_ONES)
            try:
                await dialled_anew(a, b)
                b.got.clear()
                a.beat(b)
                await until(lambda: any(sender == a.id for sender, _ in b.got))
            finally:
                nft("delete table inet cut")
            await heard(a, b)

    run(host, scenario)


def test_of_two_connections_only_one_stays_once_the_peer_is_heard(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            assert connections(a) == 2
            await dialled_anew(a, b)
            await until(lambda: connections(a) == 4)
            await until(lambda: connections(a) == 2, meanwhile=lambda: a.beat(b))
            await heard(a, b)

    run(host, scenario)


def test_a_connection_that_stays_silent_is_given_up(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.links.KEPT", 3.0)

    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            await until(lambda: connections(a) == 4, meanwhile=lambda: b.beat(a))
            await until(lambda: connections(a) == 2, meanwhile=lambda: b.beat(a))
            await heard(a, b)

    run(host, scenario)
