"""What `promote` answers: who is primary then, as far as the device that is asked knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent.errands import Errands
from agent.promoting import LOOK_S, promote
from protocol.api import Done, PromoteTo
from protocol.effects import Outcome
from protocol.ids import GroupId
from tests.unit.listening import run

RDP = GroupId("7" * 16)


def asked(
    to: str | None, *primaries: str | None, detail: str = "moved", timeout: float = 1
) -> Done:
    """What a device answers that hears of these primaries, one after the other."""
    heard = list(primaries)
    errands = Errands()
    agent: Any = SimpleNamespace(
        config=SimpleNamespace(virtual_server_named=lambda _: SimpleNamespace(uid=RDP)),
        primary_name=lambda _: heard.pop(0) if len(heard) > 1 else heard[0],
        errands=errands,
        deliver=lambda item: errands.end(Outcome(item.request, detail=detail)),
    )

    async def test() -> Done:
        return await promote(agent, "r1", PromoteTo("rdp", to, True, timeout))

    return run(test())


@pytest.mark.parametrize("primaries", [("a",), (None,), ("a", "b")])
def test_who_was_named_is_primary_whatever_is_heard(primaries: tuple[str | None, ...]) -> None:
    assert asked("b", *primaries).detail.startswith("b is primary of rdp, after ")


@pytest.mark.parametrize("primaries", [("a", "b"), ("a", "a", None, "b")])
def test_who_was_not_named_is_told_as_soon_as_that_is_heard(
    primaries: tuple[str | None, ...],
) -> None:
    assert asked(None, *primaries).detail.startswith("b is primary of rdp, after ")


@pytest.mark.parametrize("primary", ["a", None])
def test_who_is_not_heard_is_not_guessed(primary: str | None) -> None:
    done = asked(None, primary, timeout=5 * LOOK_S)
    assert done.changed
    assert done.detail.startswith("rdp has moved, after ")
    assert done.detail.endswith("; where to is not heard here yet")


def test_what_is_so_already_is_said_of_who_was_named() -> None:
    done = asked("b", "a", detail="is primary already")
    assert (done.detail, done.changed) == ("b is primary of rdp already", False)
