"""Health checks whose answers a test gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from random import Random

from agent.checks import Down, HealthChecks
from agent.distribution import GatewayKey
from tests.unit.test_checks import Scripted


@contextmanager
def scripted(
    on_change: Callable[[Down], None] = lambda _: None,
    known: Mapping[GatewayKey, str] | None = None,
) -> Iterator[tuple[Scripted, HealthChecks]]:
    """To be used while the loop runs."""
    script = Scripted()
    checks = HealthChecks(on_change, Random(1), probes={"tcp": script.start}, known=known)
    with closing(checks):
        yield script, checks
