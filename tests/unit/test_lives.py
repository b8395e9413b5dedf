"""The histories of the soak's lives, and its verdicts on connections that were lost in them."""

from __future__ import annotations

import inspect
from itertools import chain, islice
from pathlib import Path

import pytest

from halbctl.lab.plan import DSR, MEMORYLESS, MODES, SNAT
from tests.soak.acts import Acts
from tests.soak.courses import Course
from tests.soak.fates import Fates
from tests.soak.holder import Lost
from tests.soak.journal import Journal

CARRIERS = ["a", "b", "c"]


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_says_what_happens(mode: str) -> None:
    def history(seed: int) -> list[list[str]]:
        return list(islice(Course(seed, mode, CARRIERS).rounds(), 40))

    assert history(7) == history(7) != history(8)
    for line in chain(*history(7)):
        name, *words = line.split()
        act = getattr(Acts, name)
        inspect.signature(act).bind(None, *words)


def lost(born: float, at: float, reason: str = "ECONNRESET", gateway: str = "gw1") -> Lost:
    return Lost(0, at, reason, gateway, born, at - 0.1, 1)


def fates(tmp_path: Path, mode: str, *acts: tuple[float, str, str, str]) -> Fates:
    journal = Journal(tmp_path, 1)
    for at, what, subject, detail in acts:
        journal.note("act", what, subject, detail, at)
    journal.close()
    return Fates(journal, mode)


def test_what_is_lost_without_a_reason_has_none(tmp_path: Path) -> None:
    found = fates(
        tmp_path,
        DSR,
        (50.0, "weight", "gw1 3", ""),
        (60.0, "failure", "a", "crash; in step: b"),
        (61.0, "dies", "gw2", ""),
        (62.0, "replace", "gw3 gw5", ""),
    )
    assert found.why("echo", lost(20.0, 63.0)) == ""
    assert "young" in found.why("echo", lost(58.0, 60.5))
    assert "slots" in found.why("udp", lost(20.0, 63.0))
    assert "died" in found.why("echo", lost(20.0, 63.0, gateway="gw2"))
    assert "removed" in found.why("echo", lost(20.0, 63.0, gateway="gw3"))


def test_a_gateway_that_died_and_came_back_excuses_nothing_that_began_since(tmp_path: Path) -> None:
    found = fates(tmp_path, SNAT, (50.0, "dies", "gw1", ""), (60.0, "quiet", "", ""))
    assert "died" in found.why("echo", lost(20.0, 63.0))
    assert found.why("echo", lost(65.0, 80.0)) == ""


def test_a_failure_excuses_all_only_where_nobody_else_knew(tmp_path: Path) -> None:
    found = fates(tmp_path, MEMORYLESS, (60.0, "failure", "a", "kill; in step: "))
    assert "in step" in found.why("push", lost(20.0, 63.0))
    assert found.why("push", lost(20.0, 50.0)) == ""
