"""Strangers who open connections to an agent's ports, more than it has file descriptors for."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from agent import door
from agent.dataplane import DataPlane, Desired, Reconciled
from halbctl.lab.namespaces import Network
from halbctl.lab.probes import python_environment
from halbctl.lab.site import Site
from protocol.ids import DeviceId
from protocol.objects import Device
from tests.kernel.namespaces import Inside, hosts
from tests.kernel.sites import serving

pytestmark = pytest.mark.kernel

PORT = 7483
OURS = {4: "10.77.0.11", 6: "fd77::11"}
LISTEN = tuple(f"[{ip}]:7480" if ":" in ip else f"{ip}:7480" for ip in OURS.values())
KNOWN = ("10.77.0.12:7480", "[fd77::12]:7480")
PEER = Device(id=DeviceId("b" * 16), name="b", public_key="", addresses=(), joined=1)
OTHERS = tuple(f"10.77.0.{number}" for number in range(201, 221))
"""More addresses of a stranger."""
RATE, BURST, RATE_EACH, BURST_EACH = 20, 60, 10, 25
"""Smaller than in earnest, so that small tests meet the bounds."""
MORE = 2 * BURST
SOON_S = 0.5
"""A lost SYN is sent again after a second."""
FEW_FILES = 800
"""More than one stranger may take, and fewer than one would."""
FLOOD = """
import socket, sys, time
ip, port, rate, seconds = sys.argv[1], *map(int, sys.argv[2:])
begin, held = time.monotonic(), []
while (now := time.monotonic() - begin) < seconds:
    for _ in range(int(now * rate) - len(held)):
        held.append(sock := socket.socket())
        sock.setblocking(False)
        sock.connect_ex((ip, port))
        if len(held) > 900:
            held[len(held) - 900].close()
    time.sleep(0.002)
"""
"""Opens connections and says nothing. Its oldest ones are closed: it may have few files itself."""


class Doors(Inside):
    """A host with the data plane of an agent, and something that listens instead of that."""

    def __init__(self, network: Network) -> None:
        super().__init__(network, "a")
        self.plane = self.call(DataPlane, "eth0", LISTEN)
        self.call(self.plane.prepare)
        self._listening = [self.call(listener, ip) for ip in OURS.values()]

    def reconcile(self, *known: str) -> Reconciled:
        devices = [msgspec.structs.replace(PEER, addresses=known)]
        self.plane.door.know(devices)
        return self.call(self.plane.reconcile, Desired())

    def close(self) -> None:
        for each in self._listening:
            each.close()
        self.call(self.plane.remove)
        super().close()


def listener(ip: str) -> socket.socket:
    return socket.create_server(
        (ip, PORT), family=socket.AF_INET6 if ":" in ip else socket.AF_INET, backlog=4096
    )


def opened(ip: str, count: int, sources: tuple[str, ...] = ("",)) -> int:
    """How many of ``count`` connections from each source, all at once, come about."""
    with ExitStack() as stack:
        waiting: dict[int, socket.socket] = {}
        for number in range(count * len(sources)):
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
            stack.enter_context(sock)
            if source := sources[number % len(sources)]:
                sock.bind((source, 0))
            sock.setblocking(False)
            sock.connect_ex((ip, PORT))
            waiting[sock.fileno()] = sock
        poll, deadline = select.poll(), time.monotonic() + SOON_S
        for number in waiting:
            poll.register(number, select.POLLOUT)
        open_ones = 0
        while waiting and (left := deadline - time.monotonic()) > 0:
            for number, _ in poll.poll(left * 1000):
                poll.unregister(number)
                error = waiting.pop(number).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                assert not error, "nobody is refused: it is as if packets were lost"
                open_ones += 1
        return open_ones


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with hosts("a", "b", "stranger", "operator") as built:
        for address in OTHERS:
            built.run("stranger", "ip", "address", "add", f"{address}/24", "dev", "eth0")
        yield built


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "RATE", RATE)
    monkeypatch.setattr(door, "BURST", BURST)
    monkeypatch.setattr(door, "RATE_EACH", RATE_EACH)
    monkeypatch.setattr(door, "BURST_EACH", BURST_EACH)


@pytest.fixture
def doors(network: Network, small: None) -> Iterator[Doors]:
    made = Doors(network)
    made.reconcile(*KNOWN)
    yield made
    made.close()


@contextmanager
def host(network: Network, name: str) -> Iterator[Inside]:
    inside = Inside(network, name)
    try:
        yield inside
    finally:
        inside.close()


def few(bound: int) -> range:
    """What a bound lets in at once, and a little more on a machine that is busy."""
    return range(bound, MORE - 10)


@pytest.mark.parametrize("version", [4, 6])
def test_one_stranger_opens_a_bounded_number_and_others_still_come_in(
    doors: Doors, network: Network, version: int
) -> None:
    with host(network, "stranger") as stranger, host(network, "operator") as operator:
        assert stranger.call(opened, OURS[version], MORE) in few(BURST_EACH)
        assert operator.call(opened, OURS[version], 1) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_known_devices_and_this_host_are_not_bounded_whatever_strangers_do(
    doors: Doors, network: Network, version: int
) -> None:
    with host(network, "stranger") as stranger, host(network, "b") as device:
        stranger.call(opened, OURS[4], MORE // 10, OTHERS)
        assert device.call(opened, OURS[version], MORE) == MORE
        assert doors.call(opened, OURS[version], MORE) == MORE


def test_strangers_with_many_addresses_are_bounded_together(doors: Doors, network: Network) -> None:
    with host(network, "stranger") as stranger:
        assert stranger.call(opened, OURS[4], MORE // len(OTHERS), OTHERS) in few(BURST)


def test_where_more_addresses_come_than_are_told_apart_they_are_bounded_together(
    network: Network, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_SOURCES", 4)
    doors = Doors(network)
    try:
        doors.reconcile(*KNOWN)
        with host(network, "stranger") as stranger, host(network, "b") as device:
            assert stranger.call(opened, OURS[4], MORE // len(OTHERS), OTHERS) in few(BURST)
            assert device.call(opened, OURS[4], MORE) == MORE
    finally:
        doors.close()


def test_a_device_is_bounded_until_the_configuration_knows_it(
    doors: Doors, network: Network
) -> None:
    with host(network, "b") as device:
        doors.reconcile()
        assert device.call(opened, OURS[4], MORE) in few(BURST_EACH)
        doors.reconcile(*KNOWN)
        assert device.call(opened, OURS[4], MORE) == MORE


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("delete", "table", "inet", "halb_door"), "table inet halb_door was deleted"),
        (
            ("delete", "element", "inet", "halb_door", "known", "{ 10.77.0.12 }"),
            "table inet halb_door: set known was altered",
        ),
        (
            ("flush", "chain", "inet", "halb_door", "strangers"),
            "table inet halb_door: chain strangers was altered",
        ),
    ],
)
def test_what_others_did_to_it_is_told_and_mended(
    doors: Doors, damage: tuple[str, ...], words: str
) -> None:
    assert not doors.reconcile(*KNOWN).drift
    before = doors.run("nft", "-s", "-t", "list", "table", "inet", "halb_door")
    doors.run("nft", *damage)
    assert words in doors.reconcile(*KNOWN).drift
    assert doors.run("nft", "-s", "-t", "list", "table", "inet", "halb_door") == before
    assert not doors.reconcile(*KNOWN).drift


def test_packets_that_make_elements_are_no_damage(doors: Doors, network: Network) -> None:
    with host(network, "stranger") as stranger:
        stranger.call(opened, OURS[4], MORE // len(OTHERS), OTHERS)
    # Somebody else's rules, so that it is looked at all.
    doors.run("nft", "add", "table", "inet", "other")
    assert not doors.reconcile(*KNOWN).drift


def test_nothing_of_it_is_left_behind(doors: Doors) -> None:
    doors.call(doors.plane.remove)
    assert "halb_door" not in doors.run("nft", "list", "tables")


@pytest.fixture
def flooded() -> Iterator[Site]:
    """A Site whose primary may have few files, and to which a stranger opens more connections
    than that within the time of a handshake."""
    with serving(devices=2, gateways=1) as site:
        primary = site.primary()
        limit = f"--nofile={FEW_FILES}:{FEW_FILES}"
        subprocess.run(["prlimit", "--pid", str(site.agent_pid(primary)), limit], check=True)
        argv = (sys.executable, "-c", FLOOD, site.plan.host(primary).ipv4, str(PORT), "1500", "8")
        flood = subprocess.Popen(site.network.within("client", argv), env=python_environment())
        yield site
        flood.kill()
        flood.wait()


@pytest.mark.slow
def test_an_agent_with_few_files_outlives_a_flood_and_serves(flooded: Site) -> None:
    primary = flooded.primary()
    pid, before = flooded.agent_pid(primary), flooded.virtual_server(primary)
    deadline = time.monotonic() + 6.0
    while time.monotonic() < deadline:
        assert flooded.answers(primary), "a local command"
        assert flooded.service(primary).pid == pid
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < FEW_FILES
    after = flooded.virtual_server(primary)
    assert (after["primary"], after["term"]) == (before["primary"], before["term"])
    assert [each["state"] for each in flooded.status(primary)["devices"]] == ["alive", "alive"]
    told = flooded.network.run(primary, "nft", "list", "chain", "inet", "halb_door", "strangers")
    assert "counter packets 0 bytes 0 drop" in told, "not all of them"
    assert told.count("counter packets 0 ") < 3, "some"
