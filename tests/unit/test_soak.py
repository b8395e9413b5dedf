"""The soak's own checks object to bad samples: lost changes, and connections lost for no reason."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from halbctl.lab.plan import Plan
from tests.soak.clocks import Clocks
from tests.soak.holder import Lost
from tests.soak.journal import Journal
from tests.soak.judge import CALM_S, Judge
from tests.soak.stage import DIRECT, FLOW, SIX, TARGETS, WEB, Stage, document
from tests.soak.wishes import Wishes

FIRST = document(Plan(ipv6=True), sticky=False)


def weighing(weight: int) -> dict[str, Any]:
    """The document, with another weight of the first gateway."""
    changed = copy.deepcopy(FIRST)
    changed["virtual_servers"][0]["gateways"][0]["weight"] = weight
    return changed


def test_a_committed_change_that_is_not_there_is_lost() -> None:
    wishes = Wishes(FIRST)
    wishes.tried(weighing(7), committed=True)
    assert not wishes.lost(weighing(7))
    assert wishes.lost(FIRST) == ["web/gateway/gw1/weight is '2', may be ['7']"]


def test_a_change_that_was_refused_must_not_be_there_and_one_in_doubt_may() -> None:
    wishes = Wishes(FIRST)
    assert wishes.lost(weighing(7))
    wishes.tried(weighing(7), committed=False)
    assert not wishes.lost(weighing(7))
    assert not wishes.lost(FIRST)
    wishes.settle(FIRST)
    assert wishes.lost(weighing(7))


def test_a_gateway_whose_removal_was_not_heard_of_may_be_anywhere_on_its_way() -> None:
    def removed(state: str | None) -> dict[str, Any]:
        changed = copy.deepcopy(FIRST)
        gateways = changed["virtual_servers"][0]["gateways"]
        if state is None:
            del gateways[0]
        else:
            gateways[0]["state"] = state
        return changed

    wishes = Wishes(FIRST)
    assert wishes.lost(removed("disabled"))
    wishes.tried(removed(None), committed=False)
    assert not any(wishes.lost(removed(state)) for state in (None, "draining", "disabled"))
    assert not wishes.lost(FIRST)


def test_a_virtual_server_that_nobody_deleted_is_missed() -> None:
    rest = {"virtual_servers": FIRST["virtual_servers"][1:]}
    assert any("is 'gone'" in wrong for wrong in Wishes(FIRST).lost(rest))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, 1)
    yield made
    made.close()


def explained(journal: Journal, server: str) -> bool:
    """Whether a reason is found why a connection of 100 to 160 s to gw1 was reset."""
    site: Any = SimpleNamespace(plan=Plan("x", 3, 4))
    stage = Stage(site, journal, FIRST, Clocks(journal.folder / "clocks", ()))
    judge = Judge(stage, cast(Any, None), sticky=False)
    target = next(i for i, each in enumerate(TARGETS) if each.server == server)
    return judge._why(Lost(target, 160.0, "ECONNRESET", "gw1", 100.0, 159.9, 40_000))[1]


def test_only_the_death_of_its_own_gateway_explains_a_reset(journal: Journal) -> None:
    assert not explained(journal, WEB)
    journal.note("act", "gateway-dead", "gw2", at=120.0)
    journal.note("act", "crash", "a", at=150.0)
    assert not explained(journal, WEB)
    journal.note("act", "gateway-dead", "gw1", at=155.0)
    assert explained(journal, WEB)


@pytest.mark.parametrize("hangs", [False, True])
def test_where_no_slot_tells_of_it_a_reset_is_explained_if_secondaries_could_not_be_told(
    journal: Journal, hangs: bool
) -> None:
    if hangs:
        journal.note("act", "hang", "b", at=101.0 + CALM_S / 2)
        journal.note("act", "end-hang", "b", at=161.0)
    assert explained(journal, SIX) == hangs
    assert not explained(journal, WEB), "its slot never moved"


@pytest.mark.parametrize("server", [FLOW, DIRECT])
def test_what_nothing_remembers_stays_while_operators_move_its_slot(
    journal: Journal, server: str
) -> None:
    for at, what in ((90.0, "apply"), (120.0, "drained"), (130.0, "slots")):
        journal.note("act", what, "" if what == "apply" else server, at=at)
        assert not explained(journal, server)
    journal.note("act", "promote", server, at=150.0)
    assert not explained(journal, server)


@pytest.mark.parametrize("back", [90.0, 97.0, 130.0])
@pytest.mark.parametrize("server", [FLOW, DIRECT])
def test_what_nothing_remembers_stays_as_another_gateway_goes_down_and_comes_back(
    journal: Journal, server: str, back: float
) -> None:
    journal.note("act", "gateway-dead", "gw2", at=80.0)
    journal.note("act", "end-gateway-dead", "gw2", at=back)
    assert not explained(journal, server)


def test_a_gateway_that_died_later_explains_nothing(journal: Journal) -> None:
    journal.note("act", "gateway-dead", "gw2", at=110.0)
    journal.note("act", "end-gateway-dead", "gw2", at=130.0)
    assert not explained(journal, FLOW)


@pytest.mark.parametrize(
    ("what", "begins", "ends", "enough"),
    [
        ("kill", 102.0, 103.0, True),
        ("kill", 99.0, 103.0, True),
        ("kill", 104.0, 105.0, False),
        ("flush", 140.0, 140.1, True),
    ],
)
def test_with_dsr_a_device_that_was_not_told_or_forgot_explains_a_reset_after_slots_moved(
    journal: Journal, what: str, begins: float, ends: float, enough: bool
) -> None:
    journal.note("act", what, "b", at=begins)
    journal.note("act", f"end-{what}", "b", at=ends)
    assert not explained(journal, DIRECT), "its slot never moved"
    journal.note("act", "hang", "a", at=134.0)
    journal.note("act", "end-hang", "a", at=135.0)
    journal.note("act", "drained", DIRECT, at=20.0)
    assert explained(journal, DIRECT) == enough


def test_an_agent_of_the_soak_reads_peoples_clock_as_the_soak_has_set_it(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path, ("a", "b"))
    clocks.shift("b", -3600)
    module = tmp_path / "agent.py"
    module.write_text("import time; print(time.time(), time.time_ns(), time.CLOCK_BOOTTIME)")
    told = {}
    with clocks.in_force():
        for name in ("a", "b"):
            argv = [sys.executable, "-m", "agent", "--name", name]
            ran = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
            told[name] = [float(each) for each in ran.stdout.split()]
    assert "PYTHONPATH" not in os.environ or "shifted" not in os.environ["PYTHONPATH"]
    assert abs(told["a"][0] - time.time()) < 60
    assert 3500 < told["a"][0] - told["b"][0] < 3700
    assert 3500 < (told["a"][1] - told["b"][1]) / 1e9 < 3700
