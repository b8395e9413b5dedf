"""What the tests of whole Sites share: a lab that serves, and instruments in it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from halbctl.lab.kinds import ECHO
from halbctl.lab.lifecycle import build, down
from halbctl.lab.measure import Measured, Stage
from halbctl.lab.plan import Plan
from halbctl.lab.probes import Probes
from halbctl.lab.promises import broken
from halbctl.lab.site import Site, apply, form, wait_serving
from tests.kernel.evidence import tell

SLACK_MS = 400.0
"""What a takeover may take longer than promised on a machine that runs other tests too."""
CONNECTIONS = 100
"""Enough to find a connection that does not survive, few enough for a small machine."""
CHECK_INTERVAL = 0.5
_numbers = itertools.count()


def new_name() -> str:
    """A name for a lab that no other test uses."""
    return f"t{os.getpid()}-{next(_numbers)}"[-12:]


@contextmanager
def unformed(devices: int = 3, gateways: int = 2, **options: Any) -> Iterator[Site]:
    """Agents that run and belong to no Site."""
    plan = Plan(new_name(), devices, gateways, **options)
    try:
        site = build(plan)
        try:
            yield site
        except BaseException:
            tell(site)
            raise
    finally:
        down(plan.name)


@contextmanager
def serving(
    devices: int = 3, gateways: int = 2, weights: tuple[int, ...] = (), **options: Any
) -> Iterator[Site]:
    """A Site whose Virtual Server is in order."""
    with unformed(devices, gateways, **options) as site:
        form(site)
        apply(site, site.plan.document(CHECK_INTERVAL, weights))
        wait_serving(site)
        yield site


@contextmanager
def stage(site: Site, *kinds: str) -> Iterator[Stage]:
    """Instruments in a Site, that hold connections of these kinds (by default ``echo``)."""
    held = kinds or (ECHO,)
    each = CONNECTIONS // len(held)
    with Probes(site.network, site.plan.vips, connections=each, kinds=held) as probes:
        yield Stage(site, probes, hang_s=3.0, cut_s=2.0, settle_s=1.5)


def assert_kept(measured: Measured) -> None:
    """Fail with everything that was measured if a promise was broken.

    How quick a takeover is, is for ``scripts/bench failover`` to say: here a
    machine that is busy with other tests has :data:`SLACK_MS` more.
    """
    assert measured.connections == CONNECTIONS, measured
    forgiving = replace(measured, late_ms=measured.late_ms + SLACK_MS)
    assert broken(forgiving) == [], measured
