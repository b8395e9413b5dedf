"""Rules of a listener that shares connections in another way than it did."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.forwarding import forgets
from protocol.objects import FormerHash
from tests.unit.test_direct import DIRECT, ways
from tests.unit.test_forwarding import (
    CHAIN,
    GOES_ON,
    ROUTED,
    VIP,
    WEB,
    compiled,
    remembered,
)


@pytest.mark.parametrize(
    "other", [{"balance": "random"}, {"sticky": 9}, {"balance": "source-hash"}]
)
def test_what_is_shared_in_another_way_takes_nothing_older(other: dict[str, object]) -> None:
    changed = replace(WEB, former=FormerHash("hash", 9), **other)
    rules = compiled(replace(ROUTED, listeners=(changed,))).chains[CHAIN]
    assert rules[0].removeprefix(GOES_ON) == remembered(ROUTED)[0]
    assert not forgets(ROUTED, changed, 4, (VIP,))
    known = replace(WEB, former=FormerHash("", 9))
    assert not forgets(ROUTED, known, 4, (VIP,)), "entries tell where older connections go"


def test_dsr_remembers_all_that_opens_once_another_hash_shares_it() -> None:
    changed = replace(DIRECT.listeners[0], balance="source-hash", former=FormerHash("hash", 9))
    found = ways(replace(DIRECT, listeners=(changed,)))
    opens = next(rule for rule in found.chains[CHAIN] if "update" in rule)
    assert "jhash ip saddr mod 256" in opens
    assert opens.count("0:") >= 256, "of each slot"
    *_, by_slot, _, error_by_slot = found.chains[CHAIN]
    rest, error = ways(DIRECT).chains[CHAIN]
    assert by_slot.endswith(rest)
    assert error_by_slot.endswith(error.partition(" meta priority ")[2])
