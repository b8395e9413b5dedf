"""Gateways that go down and come back: for how long what they had is led there, what is noted."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from agent import direct
from agent.absences import AGAIN_S, BRIEF_S, Absences, Sight
from agent.ruleset import Desired, carried, compile_ruleset
from protocol.changes import NoteAbsences, SetGateway
from protocol.config import Config, Edit
from protocol.describe import describe
from protocol.ids import GroupId
from protocol.objects import Former, VirtualServer
from protocol.settling import AGAIN_S as LATER_S
from protocol.settling import STAY_S, Absence
from tests.unit.paris import NOW, RDP, after, edit, gateways, server, site
from tests.unit.test_direct import DIRECT as DSR
from tests.unit.test_forwarding import CHAIN, ROUTED

DIRECT = {**RDP, "forwarding": "dsr"}
ALL = frozenset(("gw1", "gw2"))
DAY = NOW + STAY_S


class Device:
    """What one device sees of the gateways, and notes."""

    def __init__(self, config: Config, *, primary: bool = True) -> None:
        self.config, self.primary = config, primary
        self.absences = Absences()
        self.now = 1000.0
        self.uid = server(config).uid
        self.proved = frozenset[str]()
        self.sees(ALL)

    def sees(self, up: frozenset[str], after_s: float = 0.0) -> dict[str, Former]:
        """These gateways are up: the notes that it goes by."""
        self.now += after_s
        self.proved |= up
        (found,) = self.absences.observe([server(self.config)], self._sight(up))
        return {g.name: g.former for g in found.gateways if g.former is not None}

    def _sight(self, up: frozenset[str]) -> Sight:
        return Sight(
            down=frozenset(
                (self.uid, g.name) for g in server(self.config).gateways if g.name not in up
            ),
            proved=frozenset((self.uid, name) for name in self.proved),
            led=(self.uid,) if self.primary else (),
            now=self.now,
            unix_s=NOW + self.now - 1000,
        )

    @property
    def brief(self) -> set[str]:
        return {name for _, name in self.absences.brief(self.now)}

    def asks(self) -> list[tuple[str, int]]:
        """What it asks for now, and the Site takes it."""
        due = tuple(self.absences.due((self.uid,), self.now))
        if due:
            unix_s = int(NOW + self.now - 1000)
            self.config = after(self.config, NoteAbsences(due), unix_s)
            assert list(self.absences.due((self.uid,), self.now)) == [], "not at once"
        self.absences._ask_at = 0.0
        return [(each.gateway, each.weight) for each in due]


@pytest.fixture
def device() -> Device:
    return Device(site(DIRECT))


GW1 = ALL - {"gw2"}


def test_one_that_falls_is_led_what_it_had_for_a_while(device: Device) -> None:
    assert device.sees(GW1) == {"gw2": Former(2, DAY)}
    assert device.brief == {"gw2"}
    device.now += BRIEF_S
    assert device.brief == set()


def test_the_primary_has_it_noted_and_goes_by_what_the_site_says(device: Device) -> None:
    device.sees(GW1)
    assert device.asks() == [("gw2", 2)]
    noted = {"gw2": Former(2, DAY + LATER_S)}
    assert device.sees(GW1) == noted
    assert device.sees(ALL, 5.0) == noted
    assert device.asks() == [], "the note covers its return"


def test_one_that_flaps_is_noted_anew_once_in_an_hour(device: Device) -> None:
    asked = 0
    for _ in range(60 * 6):  # two hours
        device.sees(GW1, 10.0)
        device.sees(ALL, 10.0)
        asked += len(device.asks())
    assert asked == 2


def test_one_that_was_gone_for_long_has_nothing_any_more(device: Device) -> None:
    device.sees(GW1)
    device.asks()
    assert device.sees(GW1, BRIEF_S) == {"gw2": Former(0, DAY + LATER_S)}
    assert device.asks() == [("gw2", 0)], "a successor may have it up all the time"
    assert device.sees(ALL, 1000.0)["gw2"].weight == 0
    assert device.asks() == []
    assert device.sees(GW1, STAY_S + LATER_S)["gw2"].weight == 2, "all of that is over"
    device.sees(ALL, 10.0)
    device.asks()
    assert device.sees(ALL)["gw2"].weight == 2
    device.sees(GW1)
    assert device.sees(ALL, BRIEF_S)["gw2"].weight == 0, "with no look between"
    device.asks()
    assert device.sees(GW1, 1000.0)["gw2"].weight == 0, "what it has now is remembered"
    assert device.brief == {"gw2"}


def test_one_that_was_down_from_the_beginning_has_nothing() -> None:
    device = Device(site(DIRECT))
    device.absences, device.proved = Absences(), frozenset()
    assert device.sees(GW1) == {}
    assert device.brief == set()
    assert device.sees(ALL, 1.0) == {"gw2": Former(0, DAY + 1)}


def test_one_that_fell_just_before_the_agent_began_anew_is_led_what_it_had(device: Device) -> None:
    device.sees(GW1)
    device.asks()
    fell, device.proved = {(device.uid, "gw2"): device.now}, frozenset()
    device.now += 20.0
    device.absences = Absences(fell, device.now)
    noted = {"gw2": Former(2, DAY + LATER_S)}
    assert device.sees(GW1) == noted
    assert device.brief == {"gw2"}
    assert device.asks() == []
    assert device.sees(GW1, BRIEF_S) == {"gw2": Former(0, DAY + LATER_S)}
    assert device.asks() == [("gw2", 0)], "as if it had never ended"
    device.absences = Absences(fell, device.now)
    assert device.sees(GW1)["gw2"].weight == 0
    assert (device.brief, device.asks()) == (set(), [])


def test_the_first_of_all_that_comes_back_has_everything(device: Device) -> None:
    device.sees(frozenset())
    device.asks()
    assert device.sees(GW1, BRIEF_S)["gw1"].weight == 1
    assert device.sees(ALL, 5.0)["gw2"].weight == 0
    assert device.asks() == [("gw2", 0)]
    device.sees(frozenset(), 100.0)
    assert {name: note.weight for name, note in device.sees(ALL, BRIEF_S).items()} == {
        "gw1": 1,
        "gw2": 2,
    }, "both at once"


def test_only_a_primary_says_that_one_has_nothing() -> None:
    """Another one may have had it up all the time."""
    device = Device(site(DIRECT), primary=False)
    assert device.sees(GW1) == {"gw2": Former(2, DAY)}
    assert device.sees(ALL, BRIEF_S) == {"gw2": Former(2, DAY)}


def test_without_a_coordinator_it_goes_by_its_own_notes_and_asks_again(device: Device) -> None:
    device.sees(GW1)
    assert len(list(device.absences.due((device.uid,), device.now))) == 1
    assert list(device.absences.due((device.uid,), device.now + AGAIN_S / 2)) == []
    assert len(list(device.absences.due((device.uid,), device.now + AGAIN_S))) == 1
    assert device.sees(ALL, 10.0) == {"gw2": Former(2, DAY + 10)}
    assert device.sees(ALL, STAY_S) == {}, "until nobody needs them"


def test_what_an_operator_says_meanwhile_counts(device: Device) -> None:
    device.sees(GW1)
    device.config = after(device.config, SetGateway("rdp", "gw2", weight=9))
    assert device.sees(GW1) == {"gw2": Former(2, DAY)}
    device.config = after(device.config, SetGateway("rdp", "gw2", state="disabled"))
    assert device.sees(ALL) == {}


@pytest.mark.parametrize(
    ("edits", "noted"),
    [
        ([{"state": "disabled"}], 0),
        ([{"weight": 7}], 2),
        ([{"weight": 0}, {"weight": 2}], 2),
        ([{"state": "draining"}], 2),
    ],
)
def test_what_moves_back_as_local_edits_end_is_noted(
    device: Device, edits: list[dict[str, object]], noted: int
) -> None:
    committed = device.config
    for values in edits:
        device.config = after(device.config, SetGateway("rdp", "gw2", **values), NOW)  # type: ignore[arg-type]
        device.sees(ALL, 1.0)
        assert device.asks() == [], "it is noted where it is edited, if at all"
    device.config = committed
    assert {name: each.weight for name, each in device.sees(ALL, 1.0).items()} == {"gw2": noted}
    assert device.asks() == [("gw2", noted)]
    assert device.sees(ALL)["gw2"] == gateways(device.config)["gw2"].former
    assert device.asks() == []


def test_only_where_connections_are_they_are_noted() -> None:
    device = Device(site(DIRECT), primary=False)
    committed = device.config
    device.config = after(committed, SetGateway("rdp", "gw2", weight=7), NOW)
    device.sees(ALL, 1.0)
    device.config = committed
    assert device.sees(ALL, 1.0) == {}


def test_one_of_which_no_slot_moves_is_not_noted() -> None:
    backup = [*RDP["gateways"], {"name": "gw3", "address": "10.77.0.33", "backup": True}]  # type: ignore[misc]
    device = Device(site({**DIRECT, "gateways": backup}))
    device.sees(ALL | {"gw3"})
    assert device.sees(ALL) == {}
    assert device.sees(ALL | {"gw3"}, 100.0) == {}
    assert device.sees(frozenset({"gw3"})).keys() == ALL
    assert device.sees(frozenset()).keys() == {*ALL, "gw3"}, "it was in use"


def test_where_connections_are_remembered_nothing_is_noted() -> None:
    device = Device(site(RDP))
    assert device.sees(GW1) == {}
    assert device.brief == set()


def test_many_are_asked_for_in_several_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.absences.MAX_ABSENCES", 64)
    many = [{"name": f"g{n}", "address": f"10.77.1.{n}"} for n in range(1, 100)]
    device = Device(site({**DIRECT, "gateways": many}))
    up = frozenset(str(each["name"]) for each in many)
    device.sees(up)
    device.sees(frozenset())
    assert len(device.asks()) == 64
    assert len(device.asks()) == 99 - 64


@pytest.mark.parametrize("served", [ROUTED, DSR])
def test_rules_lead_what_it_had_to_one_that_fell_until_it_is_gone(served: VirtualServer) -> None:
    """What opens a connection goes to the other one at once."""
    fell = replace(served.gateways[0], former=Former(1, 9))
    vs = replace(served, gateways=(fell, served.gateways[1]))
    down = frozenset({(vs.uid, "gw1")})

    def by_slots(wish: Desired) -> bool:
        ways = direct.compiled(carried(wish), wish.down, wish.gone, "eth7")
        chains = ways.chains if vs.forwarding == "dsr" else compile_ruleset(wish).chains
        return any("slots_" in rule for rule in chains[CHAIN])

    wish = Desired((vs,), {vs.uid: vs.leased}, down)
    assert by_slots(dataclasses.replace(wish, brief=down))
    assert not by_slots(wish)


def test_what_is_noted_is_no_change_for_people() -> None:
    config, uid = site(DIRECT), server(site(DIRECT)).uid
    change = NoteAbsences((Absence(uid, "gw2", 2),))
    assert describe(config, edit(config, change)) == ()
    assert gateways(after(config, change))["gw2"].former == Former(2, DAY + LATER_S)
    for unknown in (Absence(uid, "gw9", 0), Absence(GroupId("0" * 16), "gw2", 0)):
        assert edit(config, NoteAbsences((unknown,))) == Edit()
    assert edit(site(RDP), change) == Edit()
