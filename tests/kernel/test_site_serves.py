"""A whole Site at work: distribution, gateways that come and go, drains, IPv6, UDP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from halbctl.lab.measure import Stage
from halbctl.lab.plan import VIP, VIP6, VIRTUAL_SERVER
from halbctl.lab.probes import Probe
from halbctl.lab.servers import BANNER, ECHO
from halbctl.lab.site import Site, change, wait_serving
from tests.kernel.namespaces import wait_until
from tests.kernel.sites import CONNECTIONS, assert_kept, serving, stage
from tests.kernel.swallowing import swallowing

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("serves")]

WEIGHTS = (3, 1)
ATTEMPTS = 3
"""A machine that stands still for a moment loses connections in one, not in all of them."""
UDP_CLIENT = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
for number in range(60):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect((host, port))
    for _ in range(2):
        s.send(b"hello")
        print(s.recv(100).decode())
"""
LIVE = """
import sys
from agent.conntrack import count_flows
flows = count_flows(sys.argv[1:])
print(sum(number for (vip, _, _, gateway), number in flows.items() if gateway != vip))
"""
"""Flows to VIPs that are led to a gateway."""
CLIENTS = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
*vips, port = sys.argv[1:]
def greeted(vip):
    with socket.create_connection((vip, int(port)), 60) as sock:
        return sock.recv(100).decode().strip()
print(*ThreadPoolExecutor(40).map(greeted, vips * 20))
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=3, gateways=2, weights=WEIGHTS, ipv6=True) as made:
        yield made


def served(site: Site, vip: str = VIP, seconds: float = 1.5) -> Counter[str]:
    """How many new connections each gateway served, at a time when all were."""
    for _ in range(ATTEMPTS):
        with closing(Probe(site.network, "client", "newcomers", vip)) as probe:
            probe.begin()
            time.sleep(seconds)
            found = probe.end()
        if not found["failed"]:
            return Counter(found["gateways"])
    raise AssertionError(found)


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_new_connections_are_spread_by_weight(site: Site, vip: str) -> None:
    counts = served(site, vip)
    assert counts.total() > 100
    assert counts["gw1"] / counts.total() == pytest.approx(0.75, abs=0.12)


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_datagrams_of_a_flow_reach_one_gateway_and_flows_are_spread(site: Site, vip: str) -> None:
    lines = site.network.run("client", sys.executable, "-c", UDP_CLIENT, vip, str(ECHO)).split("\n")
    pairs = list(zip(lines[0:-1:2], lines[1:-1:2], strict=True))
    assert all(one == two and one.endswith(" hello") for one, two in pairs)
    assert {one.split()[0] for one, _ in pairs} == {"gw1", "gw2"}


def test_status_tells_what_is_so(site: Site) -> None:
    status = json.loads(site.halbctl("b", "--output", "json", "status").check())
    (vs,) = status["virtual_servers"]
    assert status["site"] == site.plan.name
    assert (vs["name"], vs["state"]) == (VIRTUAL_SERVER, "ok")
    assert vs["vips"] == [f"{VIP}/24", f"{VIP6}/64"]
    assert sorted(device["role"] for device in vs["devices"]) == ["primary", *["secondary"] * 2]
    assert {gateway["state"] for gateway in vs["gateways"]} == {"up"}
    assert {device["state"] for device in status["devices"]} == {"alive"}
    assert status["warnings"] == []
    assert VIRTUAL_SERVER in site.halbctl("a", "status").check()


def test_what_is_exported_can_be_applied_again_and_changes_nothing(site: Site) -> None:
    document = site.halbctl("a", "export").check()
    path = site.folder / "exported.yaml"
    path.write_text(document)
    applied = site.halbctl("c", "apply", "-f", str(path))
    applied.check()
    assert "nothing to change" in applied.errors


def test_a_drained_gateway_keeps_its_connections_and_gets_no_new_ones(site: Site) -> None:
    with stage(site) as on_stage:
        kept = on_stage.measure(
            "gateway",
            lambda: change(site, "a", "gateway", "drain", VIRTUAL_SERVER, "gw2"),
        )
        assert_kept(kept)
        site.wait("gw2 gets nothing new", lambda: set(served(site, seconds=0.5)) == {"gw1"}, 5)
        assert on_stage.connections_of("gw2") > 5
        change(site, "a", "gateway", "undrain", VIRTUAL_SERVER, "gw2")
        site.wait("gw2 is back", lambda: set(served(site, seconds=0.5)) == {"gw1", "gw2"}, 5)


def test_at_the_deadline_of_a_drain_the_gateway_is_disabled_and_its_connections_end(
    site: Site,
) -> None:
    def connections() -> int:
        found = site.halbctl("b", "--output", "json", "gateway", "show", VIRTUAL_SERVER, "gw2")
        views = json.loads(found.check())["devices"]
        assert len(views) == 3
        counts = [view["connections"] for view in views if view["role"] == "primary"]
        return counts[0] if counts else -1

    with closing(Probe(site.network, "client", "established", VIP, "40")) as clients:
        clients.begin()
        site.wait("gw2 has connections", lambda: connections() > 5, 10)
        drain = ("gateway", "drain", VIRTUAL_SERVER, "gw2", "--deadline", "1s", "--wait")
        change(site, "a", *drain)
        assert connections() == 0
        assert clients.end()["lost"], "its clients are reset, and know it"
        gateways = site.virtual_server("a")["gateways"]
        assert {g["name"]: g["state"] for g in gateways}["gw2"] == "disabled"

        def told() -> bool:
            entries = json.loads(site.halbctl("a", "--output", "json", "history").check())
            return any(e["kind"] == "drained" for e in entries["entries"])

        site.wait("the history tells of it", told, 20)
        change(site, "a", "gateway", "undrain", VIRTUAL_SERVER, "gw2")
        site.wait("gw2 is back", lambda: set(served(site, seconds=0.5)) == {"gw1", "gw2"}, 10)


def test_a_gateway_that_was_empty_when_last_looked_at_is_drained_only_once_it_is(
    site: Site,
) -> None:
    """Nobody looks at a quiet Site: what it counted last may be of any time."""
    gateway = (VIRTUAL_SERVER, "gw2")

    def counts() -> list[int]:
        found = site.halbctl("b", "--output", "json", "gateway", "show", *gateway).check()
        return [view["connections"] for view in json.loads(found)["devices"]]

    # Datagrams of the tests before count for half a minute, on a secondary from when it was told.
    site.wait("all have counted none", lambda: not any(counts()), 60)
    with closing(Probe(site.network, "client", "established", VIP, "40")) as clients:
        clients.begin()
        waited = site.halbctl(
            "b", "gateway", "drain", *gateway, "--deadline", "10m", "--wait", "--timeout", "3"
        )
        assert waited.code == 7, waited.errors
        assert "connections left" in waited.errors
        assert "has no connections" not in waited.errors
        refused = site.halbctl("c", "gateway", "remove", *gateway)
        assert (refused.code, "has no" in refused.errors) == (1, False), refused.errors
        assert not clients.end()["lost"]
    change(site, "a", "gateway", "undrain", *gateway)
    site.wait("gw2 is back", lambda: set(served(site, seconds=0.5)) == {"gw1", "gw2"}, 10)


def test_rules_that_others_flush_cost_no_connection(site: Site) -> None:
    """As each reload of /etc/nftables.conf does, if that begins with ``flush ruleset``."""
    with stage(site, "echo", "push") as on_stage:
        for _ in range(3):
            flushed = on_stage.measure(
                "flush", lambda: site.network.run(site.primary(), "nft", "flush", "ruleset")
            )
            assert flushed.survivors == flushed.connections == CONNECTIONS, flushed
            assert not flushed.two_owners_ms, flushed
            wait_serving(site)


def test_connections_end_on_every_device_when_their_virtual_server_is_deleted(site: Site) -> None:
    vip, gateway = "10.77.0.150", site.plan.gateway_hosts[0]
    devices = [host.name for host in site.plan.device_hosts]

    def live(device: str) -> int:
        return int(site.network.run(device, sys.executable, "-c", LIVE, vip))

    brief = ["--vip", f"{vip}/24", "--tcp", str(ECHO), "--gateway", f"gw1={gateway.ipv4}"]
    change(site, "a", "vs", "create", "brief", *brief)
    site.wait("it is served", lambda: bool(site.virtual_server("a", "brief")["primary"]), 10)
    with closing(Probe(site.network, "client", "established", vip, "20")) as probe:
        probe.begin()
        site.wait("all know of them", lambda: all(live(each) == 20 for each in devices), 10)
        change(site, "a", "vs", "delete", "brief", "--yes")
        site.wait("all have ended", lambda: not any(map(live, devices)), 10)


def test_a_gateway_dies_and_returns(site: Site) -> None:
    with stage(site) as on_stage:
        died = on_stage.lose_gateway("gw2")
        assert 0 < died.doomed < died.connections
        assert_kept(died)
        assert set(served(site)) == {"gw1"}
        on_stage.recover_gateway("gw2")
        site.wait("gw2 serves", lambda: set(served(site, seconds=0.5)) == {"gw1", "gw2"}, 5)


def test_connections_that_a_gateway_swallows_are_answered_by_another(site: Site) -> None:
    with swallowing(site.network, "gw2"):
        argv = [sys.executable, "-c", CLIENTS, VIP, VIP6, str(BANNER)]
        clients = site.network.within("client", argv)
        done = subprocess.run(clients, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["gw1"] * 40, done.stderr
    site.wait("gw2 serves", lambda: set(served(site, seconds=0.5)) == {"gw1", "gw2"}, 30)


def test_a_drained_device_hands_over_and_takes_nothing(site: Site) -> None:
    with stage(site) as on_stage:
        drained = site.primary()

        def drain() -> None:
            change(site, "a", "device", "drain", drained)
            site.wait("somebody else is primary", lambda: site.primary() != drained, 10)

        assert_kept(on_stage.measure("promote", drain))
        refused = site.halbctl("a", "promote", VIRTUAL_SERVER, "--to", drained)
        assert refused.code == 1
        assert "drained" in refused.errors
        change(site, "a", "device", "undrain", drained)
        on_stage.wait_agreed()


def test_history_tells_of_the_moves_with_their_times(site: Site) -> None:
    found = json.loads(site.halbctl("a", "--output", "json", "history").check())
    entries = found["entries"] if isinstance(found, dict) else found
    timed = [entry for entry in entries if entry["timeline"]]
    assert timed
    assert all(entry["timeline"]["total"] >= 0 for entry in timed)


def test_a_takeover_is_verified_by_asking_the_gateways(site: Site) -> None:
    def verified() -> bool:
        found = json.loads(site.halbctl("a", "--output", "json", "history").check())
        kinds = {entry["kind"] for entry in found["entries"]}
        assert not kinds & {"foreign-owner", "not-learnt"}, found
        return any("verification" in entry["timeline"] for entry in found["entries"])

    wait_until(verified, "a takeover is verified", 30.0)


def test_a_stage_can_be_used_for_v6(site: Site) -> None:
    """The owners of the IPv6 VIP are asked for too."""
    with stage(site) as on_stage:
        assert isinstance(on_stage, Stage)
        quiet = on_stage.measure("return", lambda: None)
        assert quiet.samples > 2 * 100
        assert_kept(quiet)
