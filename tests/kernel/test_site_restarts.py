"""An agent that is killed and started anew knows the gateways that it saw down."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from halbctl.lab.plan import VIP, VIRTUAL_SERVER
from halbctl.lab.probes import Probe
from halbctl.lab.servers import BANNER
from halbctl.lab.site import START_TIMEOUT, Site, change
from tests.kernel.sites import CONNECTIONS, serving, stage

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.xdist_group("restarts"),
]

DEVICE = "a"
SILENT = """
add table inet silent
add counter inet silent checks
add counter inet silent clients
add chain inet silent input {{ type filter hook input priority -500; }}
add rule inet silent input ip saddr {device} tcp dport {port} counter name checks
add rule inet silent input ip saddr != {device} tcp dport {port} tcp flags syn counter name clients
add rule inet silent input meta l4proto {{ tcp, udp }} drop
"""
"""Rules of a gateway that is dead, and counts what is sent to it."""
DEAF = """
add table inet deaf
add chain inet deaf input {{ type filter hook input priority 0; }}
add rule inet deaf input ip saddr {} tcp flags syn drop
"""
"""Rules of a gateway that answers no check, and goes on with what it has."""


def rules(site: Site, gateway: str, text: str) -> None:
    site.network.run(gateway, "nft", text)


def made_silent(site: Site, gateway: str) -> None:
    device = site.plan.device(DEVICE).ipv4
    rules(site, gateway, SILENT.format(device=device, port=BANNER))


def silence(site: Site, gateway: str) -> None:
    made_silent(site, gateway)
    wait_gateway(site, gateway, "down")


def wait_gateway(site: Site, gateway: str, state: str) -> None:
    def seen() -> bool:
        found = {g["name"]: g["state"] for g in site.virtual_server(DEVICE)["gateways"]}
        return bool(found[gateway] == state)

    site.wait(f"{gateway} is {state}", seen, START_TIMEOUT)


def counted(site: Site, gateway: str, what: str) -> int:
    """Packets that a silent gateway got of ``checks``, or that would open one for ``clients``."""
    listed = site.network.run(gateway, "nft", "-j", "list", "counter", "inet", "silent", what)
    (found,) = (each["counter"] for each in json.loads(listed)["nftables"] if "counter" in each)
    return int(found["packets"])


def kill(site: Site) -> None:
    site.service(DEVICE).kill()


def start(site: Site) -> None:
    site.start_agent(DEVICE)
    site.wait("a is primary again", lambda: site.primary() == DEVICE, START_TIMEOUT)


@contextmanager
def newcomers(site: Site) -> Iterator[Probe]:
    """New connections, each 5 ms."""
    probe = Probe(site.network, "client", "newcomers", VIP)
    try:
        yield probe
    finally:
        probe.close()


def renewed(clients: Probe) -> Container[str]:
    """The gateways that answered in the window that was open; another one begins."""
    found: dict[str, int] = clients.end()["gateways"]
    clients.begin()
    return found


def wait_led_no_more(site: Site, gateway: str) -> int:
    """Wait until no client is led to a gateway; how many were."""
    seen = [-1]

    def none_came() -> bool:
        seen.append(counted(site, gateway, "clients"))
        return seen[-1] == seen[-2]

    site.wait(f"nobody is led to {gateway}", none_came, START_TIMEOUT, every=0.3)
    return seen[-1]


def wait_asked(site: Site, gateway: str) -> None:
    """Wait until a gateway was asked in vain as often as a check has to be that decides."""
    before = counted(site, gateway, "checks")

    def often() -> bool:
        return counted(site, gateway, "checks") > before + 10

    site.wait(f"{gateway} was asked in vain", often, START_TIMEOUT)


@pytest.mark.parametrize("mode", ["snat", "dsr"])
def test_nobody_is_led_to_gateways_that_were_down_until_they_answer(mode: str) -> None:
    with serving(devices=1, gateways=2, mode=mode) as site, newcomers(site) as clients:
        silence(site, "gw1")
        led = wait_led_no_more(site, "gw1")
        assert led, "this would not notice"
        kill(site)
        start(site)
        clients.begin()
        wait_asked(site, "gw1")
        assert clients.end()["gateways"].keys() == {"gw2"}
        assert counted(site, "gw1", "clients") == led

        silence(site, "gw2")
        led_too = wait_led_no_more(site, "gw2")
        kill(site)
        start(site)
        wait_asked(site, "gw2")
        assert counted(site, "gw1", "clients") == led, "none is left: clients are refused"
        assert counted(site, "gw2", "clients") == led_too

        kill(site)
        rules(site, "gw1", "delete table inet silent")
        start(site)
        clients.begin()
        wait_asked(site, "gw2")
        assert clients.end()["gateways"].keys() == {"gw1"}, "came back meanwhile"
        assert counted(site, "gw2", "clients") == led_too


def test_nobody_is_led_to_one_that_is_added_until_it_answers() -> None:
    with serving(devices=1, gateways=3, spare=1) as site, newcomers(site) as clients:
        made_silent(site, "gw3")
        clients.begin()
        address = site.plan.host("gw3").ipv4
        change(site, DEVICE, "gateway", "add", VIRTUAL_SERVER, f"gw3={address}")
        wait_asked(site, "gw3")
        assert clients.end()["gateways"].keys() == {"gw1", "gw2"}
        assert counted(site, "gw3", "clients") == 0
        wait_gateway(site, "gw3", "down")
        rules(site, "gw3", "delete table inet silent")
        wait_gateway(site, "gw3", "up")
        clients.begin()
        site.wait("gw3 is used", lambda: "gw3" in renewed(clients), START_TIMEOUT, every=0.3)


@pytest.mark.parametrize("mode", ["routed-memoryless", "dsr"])
def test_what_a_gateway_had_that_fell_just_before_stays_there(mode: str) -> None:
    with serving(devices=1, gateways=3, mode=mode) as site, stage(site) as instruments:

        def restart() -> None:
            kill(site)
            start(site)
            wait_gateway(site, "gw1", "down")
            wait_gateway(site, "gw2", "up")

        def fall() -> None:
            rules(site, "gw1", DEAF.format(site.plan.device(DEVICE).ipv4))
            wait_gateway(site, "gw1", "down")

        instruments.measure("gateway", fall)
        assert instruments.connections_of("gw1"), "this would not notice"
        patient = replace(instruments, settle_s=5.0)  # until TCP speaks again
        measured = patient.measure("restart", restart)
        assert measured.survivors == CONNECTIONS, measured
