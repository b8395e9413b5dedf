"""``halbctl doctor``: problems with their remedies, and an exit code for scripts."""

from __future__ import annotations

import json

import msgspec
import pytest

from protocol import api
from protocol.diagnosis import Diagnosis, Finding
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer

WELL = Finding("kernel", "ok", "takes all rules")
ODD = Finding("time", "warning", "the clock is not synchronised", "Run a time service.")
WRONG = Finding("mtu", "problem", "none of 1500 bytes", "Give all the same MTU.")


def test_a_problem_is_named_with_its_remedy_and_ends_with_1(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetDoctor] = Diagnosis("a", "paris", (WELL, ODD, WRONG))
    ran = halbctl("doctor")
    assert ran.code == 1
    assert "mtu: none of 1500 bytes\n  Give all the same MTU." in ran.out
    assert "kernel" not in ran.out
    assert "a: 1 problem, 1 warning, 1 well" in ran.out


@pytest.mark.parametrize("findings", [(WELL,), (WELL, ODD)])
def test_without_a_problem_it_ends_with_0(
    peer: Peer, halbctl: Halbctl, findings: tuple[Finding, ...]
) -> None:
    peer.answers[api.GetDoctor] = Diagnosis("a", "", findings)
    ran = halbctl("doctor", "--all")
    assert ran.code == 0
    assert "kernel: takes all rules" in ran.out
    assert "only its host was looked at" in ran.out


def test_a_diagnosis_as_data(peer: Peer, halbctl: Halbctl) -> None:
    found = Diagnosis("a", "paris", (WRONG,))
    peer.answers[api.GetDoctor] = found
    ran = halbctl("doctor", "--output", "json")
    assert ran.code == 1
    assert json.loads(ran.out)["findings"] == json.loads(msgspec.json.encode(found))["findings"]
