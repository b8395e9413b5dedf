"""What is shown of an edit, line by line."""

from __future__ import annotations

from protocol.changes import (
    ApplyDocument,
    CancelMove,
    Change,
    PlanMove,
    RemoveDevice,
    RemoveGateway,
    SetDevice,
    SetGateway,
    describe,
)
from protocol.config import Config
from protocol.document import parse_site
from tests.unit.paris import NOW, RDP, after, edit, site


def apply(*servers: dict[str, object]) -> ApplyDocument:
    return ApplyDocument(parse_site({"virtual_servers": list(servers)}))


def lines(config: Config, change: Change) -> tuple[str, ...]:
    return describe(config, edit(config, change))


def test_a_planned_move_is_shown_by_the_name_of_what_moves() -> None:
    config = site(RDP)
    plan = PlanMove("rdp", "b", NOW + 60, "0123456789abcdef")
    assert lines(config, plan) == ("+ planned move of rdp",)
    assert lines(after(config, plan), CancelMove("rdp")) == ("- planned move of rdp",)


def test_a_dry_run_shows_each_thing_that_changes() -> None:
    config = site(RDP)
    wanted = {
        **RDP,
        "vips": ["10.77.0.110/24"],
        "devices": ["b", "a"],
        "profile": "fast",
        "gateways": [
            {"name": "gw1", "address": "10.77.0.31", "weight": 3},
            {"name": "gw3", "address": "10.77.0.33"},
        ],
        "listeners": [{"protocol": "tcp", "port": 443, "balance": "source-hash"}],
    }
    assert lines(config, apply(wanted, {"name": "web", "vips": ["10.77.0.101"]})) == (
        "~ virtual server rdp devices a, b -> b, a",
        "~ virtual server rdp profile normal -> fast",
        "+ vip rdp 10.77.0.110/24",
        "- vip rdp 10.77.0.100/24",
        "~ gateway rdp/gw1 weight 1 -> 3",
        "+ gateway rdp/gw3 address 10.77.0.33 weight 1 state enabled",
        "- gateway rdp/gw2: connections that it still has go on",
        "~ listener rdp/tcp/443 balance hash -> source-hash",
        "~ listener rdp/tcp/443 check tcp every 2 s, timeout 1 s, fall 3, rise 2 -> as usual",
        "+ virtual server web",
        "+ vip web 10.77.0.101/32",
    )
    assert lines(config, apply()) == ("- virtual server rdp",)


def test_a_range_is_shown_to_have_the_same_ports_on_the_gateways() -> None:
    config = site(RDP)
    wanted = apply({**RDP, "listeners": [{"protocol": "udp", "port": "all"}]})
    added, _ = lines(config, wanted)
    says = "gateway port the same balance hash check that of other listeners"
    assert added == f"+ listener rdp/udp/all {says}"


def test_listeners_that_are_not_checked_are_shown_so() -> None:
    unchecked = {"port": "all", "check": {"type": "none"}}
    added, removed = lines(site(RDP), apply({**RDP, "listeners": [unchecked]}))
    assert added == "+ listener rdp/tcp/all gateway port the same balance hash check none"
    assert removed == "- listener rdp/tcp/443"


def test_of_a_new_virtual_server_what_is_special_is_shown() -> None:
    made = {"name": "web", "vips": ["10.77.0.9"], "profile": "wan", "devices": ["b"]}
    first, *_ = lines(site(RDP), apply(RDP, {**made, "forwarding": "dsr"}))
    assert first == "+ virtual server web devices b profile wan forwarding dsr"


def test_another_order_is_shown_too() -> None:
    backwards = {**RDP, "gateways": list(reversed(RDP["gateways"]))}  # type: ignore[call-overload]
    assert lines(site(RDP), apply(backwards)) == ("~ gateway rdp order gw1, gw2 -> gw2, gw1",)


def test_devices_are_shown_by_name() -> None:
    config = site({**RDP, "witnesses": ["c"]})
    assert lines(config, SetDevice("a", drained=True)) == ("~ device a drained no -> yes",)
    assert lines(config, RemoveDevice("c")) == (
        "~ virtual server rdp witnesses c -> none",
        "- device c",
    )


def test_deadlines_and_plans_are_shown_as_times() -> None:
    config = site(RDP)
    drain = SetGateway("rdp", "gw1", state="draining", drain_until=NOW + 600)
    assert lines(config, drain) == (
        "~ gateway rdp/gw1 state enabled -> draining",
        "~ gateway rdp/gw1 drain_until no -> 2023-11-14 22:23:20Z",
    )
    plan = PlanMove("rdp", "b", NOW + 60, "0123456789abcdef")
    later = PlanMove("rdp", "b", NOW + 90, "0123456789abcdef")
    assert lines(after(config, plan), later) == (
        "~ planned move of rdp at 2023-11-14 22:14:20Z -> 2023-11-14 22:14:50Z",
    )


def test_nothing_goes_on_of_a_gateway_that_was_emptied() -> None:
    config = site(RDP)
    made = edit(config, RemoveGateway("rdp", "gw2"))
    assert describe(config, made, emptied=True) == ("- gateway rdp/gw2",)
    dsr = site({**RDP, "forwarding": "dsr"})
    made = edit(dsr, RemoveGateway("rdp", "gw2"))
    assert describe(dsr, made, emptied=True) == (
        "- gateway rdp/gw2: connections that it still has may be reset",
    )
