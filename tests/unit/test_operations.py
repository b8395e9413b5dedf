"""What the agent answers to requests that need nothing but what it remembers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.history import History
from agent.operations import Operations
from protocol import api
from protocol.admission import found_site
from protocol.changes import DeleteVirtualServer, SetGateway
from protocol.config import Config
from protocol.errors import InvalidInput, Refused, TimedOut
from protocol.joining import JoinRequest
from tests.unit.paris import device
from tests.unit.test_history import RDP, config, entry


def history_of(path: Path, name: str | None) -> list[int]:
    """Times of the entries that an agent with one entry, of a deleted ``old``, tells of."""
    history = History(path)
    history.add(entry(7, virtual_server="old", uid=RDP))
    agent = SimpleNamespace(history=history, config=config())
    request = api.Request(api.API_VERSION, "r1", api.GetHistory(name))
    told = asyncio.run(Operations(cast(Any, agent)).carry_out(request))
    assert isinstance(told, api.History)
    return [each.at for each in told.entries]


@pytest.mark.parametrize(("name", "times"), [(None, [7]), ("old", [7]), ("rdp", [])])
def test_the_history_of_what_is_or_was_is_told(
    tmp_path: Path, name: str | None, times: list[int]
) -> None:
    assert history_of(tmp_path, name) == times


def test_the_history_of_what_never_was_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no Virtual Server is named 'rdq'") as refused:
        history_of(tmp_path, "rdq")
    assert "'rdp'" in refused.value.remedy


def test_a_device_that_could_not_hand_everything_over_takes_part_again() -> None:
    told: list[str] = []

    async def step_aside() -> None:
        told.append("stop")
        raise TimedOut("not everything was handed over", "Look at `halbctl status`.")

    agent = SimpleNamespace(
        config=found_site("paris", "5" * 16, device("a", 1)), removed_from="",
        in_site=True, step_aside=step_aside, come_back=lambda: told.append("resume"),
    )  # fmt: skip
    request = api.Request(api.API_VERSION, "r1", api.Leave(force=False))
    with pytest.raises(TimedOut):
        asyncio.run(Operations(cast(Any, agent)).carry_out(request))
    assert told == ["stop", "resume"]


@pytest.mark.parametrize(
    "op",
    [
        api.Recover("paris", ()),
        api.Failover("rdp"),
        api.PromoteTo("rdp", None),
        api.CreateToken(3600, 1),
        api.PutChange(DeleteVirtualServer("rdp")),
        api.PutChange(SetGateway("rdp", "gw1", state="disabled"), local=True),
    ],
)
def test_a_device_that_knows_that_it_was_removed_changes_nothing(op: Any) -> None:
    agent = SimpleNamespace(config=found_site("paris", "5" * 16, device("a", 1)),
                            removed_from="paris", in_site=True)  # fmt: skip
    with pytest.raises(Refused, match="was removed from Site paris") as refused:
        asyncio.run(Operations(cast(Any, agent)).carry_out(api.Request(api.API_VERSION, "r1", op)))
    assert "halbctl leave" in refused.value.remedy


@pytest.mark.parametrize(
    ("config", "removed_from"),
    [
        (Config(), ""),
        (found_site("tours", "6" * 16, device("a", 1)), ""),
        (found_site("paris", "5" * 16, device("a", 1)), "paris"),
    ],
)
def test_a_device_that_has_left_a_site_leaves_it_to_others_who_may_join_that(
    config: Config, removed_from: str
) -> None:
    agent = SimpleNamespace(config=config, removed_from=removed_from, name="a", in_site=True)
    request = JoinRequest("7" * 16, "f" * 32, device("b", 2), site="5" * 16)
    reply = asyncio.run(Operations(cast(Any, agent)).admit(request))
    assert reply.elsewhere
    assert reply.failure is not None
    assert "does not belong to the Site of the token" in reply.failure.message
