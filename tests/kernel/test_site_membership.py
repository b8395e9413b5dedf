"""Devices that join, leave, stop and come back; what each leaves on its host."""

from __future__ import annotations

import pytest

from halbctl.lab.plan import VIP, WITNESS
from halbctl.lab.site import Site, apply, create_token, form, wait_serving
from protocol.errors import ExitCode
from tests.kernel.sites import CHECK_INTERVAL, assert_kept, serving, stage, unformed

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def traces(site: Site, device: str) -> str:
    """What HALB has put into the kernel of a device's host."""
    rules = site.network.run(device, "nft", "list", "ruleset")
    addresses = site.network.run(device, "ip", "-o", "address", "show")
    return rules + "".join(line for line in addresses.splitlines() if VIP in line)


def test_a_clean_stop_hands_over_and_leaves_nothing_behind() -> None:
    with serving() as site, stage(site) as on_stage:
        primary = site.primary()
        untouched = site.network.run("client", "sysctl", "-n", "net.ipv4.ip_forward")

        def stop() -> None:
            site.service(primary).terminate(10)

        stopped = on_stage.measure("promote", stop)
        assert_kept(stopped)
        assert traces(site, primary) == ""
        forwarding = site.network.run(primary, "sysctl", "-n", "net.ipv4.ip_forward")
        assert forwarding == untouched
        assert not site.control(primary).exists()

        site.start(primary)
        on_stage.wait_agreed()
        assert site.primary() == stopped.after

        # A second device leaves for good: it goes on as an agent without a Site.
        leaver = site.primary()
        site.halbctl(leaver, "leave", "--yes").check()
        assert site.ask(leaver, "version")["site"] == ""
        assert traces(site, leaver) == ""
        rest = [host.name for host in site.plan.device_hosts if host.name != leaver]
        site.wait(
            "the others serve",
            lambda: site.virtual_server(rest[0])["primary"] in rest,
            10,
        )
        names = {device["name"] for device in site.status(rest[0])["devices"]}
        assert names == set(rest)

        # And may come back, with a new token.
        site.halbctl(leaver, "join", create_token(site, rest[0])).check()
        on_stage.wait_agreed()


def test_a_device_that_may_not_leave_hands_nothing_over() -> None:
    with serving(devices=2, gateways=1) as site:
        primary, term = site.primary(), site.virtual_server("a")["term"]
        refused = site.halbctl(primary, "leave", "--yes")
        assert refused.code == ExitCode.FAILED
        assert "too few would be left" in refused.errors

        other = next(host.name for host in site.plan.device_hosts if host.name != primary)
        site.service(other).kill()
        site.wait("it is alone", lambda: site.status(primary)["coordinator"] is None, 10)
        refused = site.halbctl(primary, "leave", "--yes")
        assert refused.code in (ExitCode.FAILED, ExitCode.NO_QUORUM)
        assert (site.primary(), site.virtual_server(primary)["term"]) == (primary, term)
        told = site.halbctl(primary, "history", "--output", "json").output
        assert "stopped cleanly" not in told


def test_two_devices_and_a_witness_survive_the_loss_of_one() -> None:
    with serving(devices=2, gateways=2, witness=True) as site, stage(site) as on_stage:
        roles = {d["name"]: d["role"] for d in site.virtual_server("a")["devices"]}
        assert roles[WITNESS.name] == "witness"
        crash = on_stage.crash()
        assert_kept(crash)
        assert crash.after in {"a", "b"}
        assert_kept(on_stage.come_back(crash.before))


def test_all_agents_killed_at_once_find_their_site_again() -> None:
    with unformed(devices=3, gateways=1) as site:
        form(site)
        apply(site, site.plan.document(CHECK_INTERVAL))
        wait_serving(site)
        before = site.status("a")["revision"]
        for host in site.plan.device_hosts:
            site.service(host.name).kill()
        for host in site.plan.device_hosts:
            site.start_agent(host.name)
        for host in site.plan.device_hosts:
            site.wait_answers(host.name)
        wait_serving(site)
        assert site.status("b")["site"] == site.plan.name
        assert int(site.status("b")["revision"].split(".")[1]) >= int(before.split(".")[1])
