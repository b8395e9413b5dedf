"""A whole Site whose gateways are shared out by more than a hash, and operators who ask why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from halbctl.lab.measure import next_device
from halbctl.lab.plan import VIP, VIRTUAL_SERVER
from halbctl.lab.servers import BANNER
from halbctl.lab.site import Site, change, wait_serving
from tests.kernel.sites import CONNECTIONS, serving, stage

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("balance")]

CLIENTS = [f"10.77.0.22{n}" for n in range(8)]
GREETED = """
import socket, sys
vip, port, *clients = sys.argv[1:]
for client in clients:
    with socket.create_connection((vip, int(port)), 3, (client, 0)) as sock:
        print(sock.recv(100).decode().strip())
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=3, gateways=3) as made:
        for client in CLIENTS:
            made.network.run("client", "ip", "address", "add", f"{client}/32", "dev", "eth0")
        yield made


def greeted(site: Site) -> list[str]:
    """The gateway that each client reaches."""
    argv = (sys.executable, "-c", GREETED, VIP, str(BANNER), *CLIENTS)
    return site.network.run("client", *argv).split()


def sticky_clients(site: Site, device: str) -> int:
    """How many of the clients a device's kernel knows."""
    listing = site.network.run(device, "nft", "list", "table", "inet", "halb")
    return sum(f"{client} timeout" in listing for client in CLIENTS)


def gateway(site: Site, name: str) -> dict[str, Any]:
    found = site.virtual_server(site.primary())["gateways"]
    return next(each for each in found if each["name"] == name)


def test_sticky_clients_keep_their_gateway_when_the_device_is_lost(site: Site) -> None:
    edit = ("vs", "edit", VIRTUAL_SERVER, "--balance", "round-robin", "--sticky", "10m")
    change(site, "a", *edit)
    primary = site.primary()
    site.wait(
        "the listeners are sticky",
        lambda: "_sticky" in site.network.run(primary, "nft", "list", "table", "inet", "halb"),
        10,
    )
    first = greeted(site)
    assert len(set(first)) == 3
    others = [host.name for host in site.plan.device_hosts if host.name != primary]
    for other in others:
        site.wait(
            f"{other} knows all clients",
            lambda other=other: sticky_clients(site, other) == len(CLIENTS),  # type: ignore[misc]
            20,
        )
    site.halbctl(primary, "promote", VIRTUAL_SERVER, "--wait").check()
    assert site.primary() != primary
    assert greeted(site) == first
    asked = ("--output", "json", "trace", f"{CLIENTS[0]}:50000", f"{VIRTUAL_SERVER}:{BANNER}")
    traced = json.loads(site.halbctl(site.primary(), *asked).check())
    assert (traced["how"], traced["gateway"]) == ("sticky", first[0])


def test_a_gateway_that_came_back_starts_slowly_and_says_so(site: Site) -> None:
    change(site, "a", "vs", "edit", VIRTUAL_SERVER, "--slow-start", "5m")
    for state in ("draining", "enabled"):
        change(site, "a", "gateway", "set", VIRTUAL_SERVER, "gw2", "--state", state)
        site.wait(
            f"gw2 is {state}",
            lambda state=state: (  # type: ignore[misc]
                gateway(site, "gw2")["state"] == {"enabled": "up"}.get(state, state)
            ),
            10,
        )
    assert gateway(site, "gw2")["note"] == "slow start: 5 % of its weight"
    change(site, "a", "vs", "edit", VIRTUAL_SERVER, "--slow-start", "no")
    site.wait("gw2 has its share", lambda: not gateway(site, "gw2")["note"], 10)


def test_a_backup_waits_and_says_so(site: Site) -> None:
    change(site, "a", "gateway", "set", VIRTUAL_SERVER, "gw3", "--backup")
    site.wait(
        "the status says why gw3 takes nothing",
        lambda: gateway(site, "gw3").get("note", "").startswith("backup: takes"),
        10,
    )
    wait_serving(site)
    assert "gw3" not in greeted(site)
    shown = site.halbctl("a", "vs", "show", VIRTUAL_SERVER).check()
    assert "backup: takes connections while no other can" in shown
    exported = json.loads(site.halbctl("a", "--output", "json", "export").check())
    (server,) = exported["virtual_servers"]
    assert [g["name"] for g in server["gateways"] if g.get("backup")] == ["gw3"]
    change(site, "a", "gateway", "set", VIRTUAL_SERVER, "gw3", "--no-backup")


def test_connections_that_took_turns_survive_a_crash_and_a_planned_move(site: Site) -> None:
    edit = ("vs", "edit", VIRTUAL_SERVER, "--balance", "round-robin", "--sticky", "no")
    change(site, "a", *edit)
    primary = site.primary()
    site.wait(
        "flows take turns, and nothing is sticky",
        lambda: "_sticky" not in site.network.run(primary, "nft", "list", "table", "inet", "halb"),
        10,
    )
    with stage(site) as on_stage:
        on_stage.wait_agreed()
        successor = next_device(site)
        # Back at once: the former primary still forwards, and is being told what it lacks.
        for to in (successor, primary):
            measured = on_stage.promote(to)
            assert measured.survivors == measured.connections == CONNECTIONS, measured
        measured = on_stage.crash()
        assert measured.survivors == measured.connections == CONNECTIONS, measured
