"""Status of a Site so large that building it would hold up heartbeats."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent import status as status_module
from agent.status import build_status, status_of
from protocol.api import Status
from tests.unit.test_status import Site


def test_the_status_of_a_large_site_is_built_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()

    def built_in() -> tuple[Status, bool]:
        builders: list[threading.Thread] = []

        def noted(*seen: object) -> Status:
            builders.append(threading.current_thread())
            return build_status(*seen)  # type: ignore[arg-type]

        monkeypatch.setattr(status_module, "build_status", noted)
        found = asyncio.run(status_of(*site.seen()))
        return found, builders == [threading.current_thread()]

    here, in_loop = built_in()
    assert in_loop
    monkeypatch.setattr(status_module, "AT_ONCE", 0)
    beside, in_loop = built_in()
    assert not in_loop
    assert beside == here
