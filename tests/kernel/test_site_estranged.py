"""A device that lost its Site finds out whether it was removed, from real members."""

from __future__ import annotations

import pytest

from halbctl.lab.site import agreed, apply, create_token, wait_serving
from tests.kernel.sites import CHECK_INTERVAL, unformed

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def test_a_member_that_was_away_when_a_device_joined_does_not_say_that_it_was_removed() -> None:
    with unformed(devices=4, gateways=1) as site:
        site.service("d").kill()
        site.halbctl("a", "init", site.plan.name).check()
        token = create_token(site, "a", uses=3)
        for name in ("b", "c"):
            site.halbctl(name, "join", token).check()
        apply(site, site.plan.document(CHECK_INTERVAL))
        wait_serving(site)

        site.crash("c")
        site.start_agent("d", "--log-level", "debug")
        site.wait_answers("d")
        site.halbctl("d", "join", token).check()
        for name in ("a", "b"):
            site.crash(name)
        site.start("c")
        log = site.service("d").log
        site.wait("c was asked", lambda: ", older than " in log.read_text(), 40)
        for name in ("a", "b"):
            site.start(name)
        site.wait("all take part", lambda: agreed(site), 30)
        assert "was removed" not in log.read_text()
