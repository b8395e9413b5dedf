"""Counters and metrics: totals that only grow, rates, and text that monitoring can read."""

from __future__ import annotations

import dataclasses
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent import conntrack_limit
from agent.conntrack_limit import KEPT_LOOKS, Alarm, Room
from agent.counters import Ledger, Reading, Tally
from agent.firewall import Chain, suspects
from agent.host import HostWatch
from agent.meter import Sample
from agent.metrics import Figures, render
from agent.tallies import traffic_of
from protocol.config import Config
from protocol.effects import Event
from protocol.ids import GroupId, Revision
from protocol.objects import Assignment, Gateway, Listener, Record, VirtualServer, key_of
from protocol.timing import Profile
from protocol.traffic import Traffic
from tests.cli.recorded import BUSY

UID = GroupId("00000000000000aa")
VIP, GATEWAY = "10.77.0.100", "10.77.0.31"
ACCOUNT = (VIP, "tcp", 443, GATEWAY)
DOCS = Path(__file__).parents[2] / "docs"


def key(*parts: str | int, direction: int | None = None) -> bytes:
    found = b""
    for part in parts:
        if part == "tcp":
            found += bytes([socket.IPPROTO_TCP, 0, 0, 0])
        elif isinstance(part, int):
            found += part.to_bytes(2, "big") + bytes(2)
        else:
            found += socket.inet_aton(part)
    return found if direction is None else found + bytes([direction, 0, 0, 0])


OPENED = ("opened", key(VIP, "tcp", 443, GATEWAY))
FORTH = ("carried", key(VIP, "tcp", 443, GATEWAY, direction=0))
BACK = ("carried", key(VIP, "tcp", 443, GATEWAY, direction=1))


def test_totals_are_what_the_kernel_says() -> None:
    ledger = Ledger()
    ledger.add({OPENED: Tally(3, 180), FORTH: Tally(30, 3000), BACK: Tally(20, 9000)})
    read = ledger.totals()
    assert read.opened == {ACCOUNT: 3}
    assert read.forth == {ACCOUNT: Tally(30, 3000)}
    assert read.back == {ACCOUNT: Tally(20, 9000)}


def test_what_one_reading_passed_over_is_not_counted_twice() -> None:
    """While a set grows, the kernel lists some of its elements twice and others not at all."""
    ledger = Ledger()
    for seen in ({OPENED: Tally(3, 180), BACK: Tally(9, 900)}, {}, {OPENED: Tally(4, 240)}):
        ledger.add(seen)
        assert ledger.totals().back == {ACCOUNT: Tally(9, 900)}
    ledger.add({OPENED: Tally(4, 240), BACK: Tally(11, 1100)})
    assert ledger.totals().opened == {ACCOUNT: 4}
    assert ledger.totals().back == {ACCOUNT: Tally(11, 1100)}


def test_what_a_command_took_out_goes_on_when_it_is_back() -> None:
    sent = ("sent", key(VIP, "tcp", 443, GATEWAY))
    ledger = Ledger()
    for seen in ({sent: Tally(3, 180)}, {}, {sent: Tally(4, 240)}):
        ledger.add(seen)
    assert ledger.totals().sent == {ACCOUNT: Tally(7, 420)}


def test_totals_go_on_where_a_counter_started_again() -> None:
    ledger = Ledger()
    ledger.add({FORTH: Tally(30, 3000)})
    ledger.add({FORTH: Tally(2, 200)})
    assert ledger.totals().forth == {ACCOUNT: Tally(32, 3200)}
    ledger.start_again()
    ledger.add({FORTH: Tally(40, 4000)})
    assert ledger.totals().forth == {ACCOUNT: Tally(72, 7200)}


def reading(offered: int = 0, entered: int = 0, opened: int = 0, untracked: int = 0) -> Reading:
    service = ACCOUNT[:3]
    return Reading(
        {service: offered}, {service: entered}, {ACCOUNT: opened},
        {ACCOUNT: Tally(7, 700)}, {ACCOUNT: Tally(5, 500)}, {VIP: untracked},
    )  # fmt: skip


def config(**changes: Any) -> Config:
    server = VirtualServer(
        uid=UID,
        name="web",
        vips=(f"{VIP}/24",),
        gateways=(
            Gateway(name="gw1", address=GATEWAY),
            Gateway(name="gw2", address="10.77.0.32"),
            Gateway(name="gw6", address="fd77::31"),
        ),
        listeners=(Listener(protocol="tcp", port=443, gateway_port=8443),),
        seed=1,
    )
    server = replace(server, **changes)
    assignment = Assignment(
        uid=UID, number=1, vips=(VIP,), voters=(), profile=Profile.NORMAL, slowest=Profile.NORMAL
    )
    revision = Revision(1, 1)
    values: tuple[VirtualServer | Assignment, ...] = (server, assignment)
    records = {key_of(value): Record(*key_of(value), revision, value) for value in values}
    return Config(revision, records)


def test_an_operator_sees_them_by_listener_and_gateway() -> None:
    before = Sample(10.0, reading(10, 10, 10))
    now = Sample(12.0, reading(20, 17, 14), {(VIP, "tcp", 443, GATEWAY): 4})
    [found] = traffic_of(config(), {UID}, {UID}, now, before)
    assert found.primary
    [listener] = found.listeners
    assert listener.listener == "tcp/443"
    traffic = Traffic(
        connections=14, active=4, rate=2.0,
        packets_in=7, bytes_in=700, packets_out=5, bytes_out=500,
    )  # fmt: skip
    assert listener.gateways[0].traffic == traffic
    assert listener.gateways[1].traffic == Traffic(active=0, rate=0.0)
    assert listener.traffic.connections == 14
    assert (listener.traffic.refused, listener.traffic.dropped) == (3, 3)
    assert found.traffic == listener.traffic


@pytest.mark.parametrize("first", [443, 400])
def test_live_flows_to_any_port_of_a_range_are_its_own(first: int) -> None:
    """Also of ports that nothing was counted of by themselves."""
    ranged = Listener(protocol="tcp", port=first, last_port=450, gateway_port=first)
    beside = Listener(protocol="tcp", port=451, gateway_port=451)
    live = {(VIP, "tcp", port, GATEWAY): port for port in (443, 447, 450, 451)}
    now = Sample(12.0, reading(20, 17, 14), live)
    [found] = traffic_of(config(listeners=(ranged, beside)), {UID}, {UID}, now, now)
    assert [each.traffic.active for each in found.listeners] == [443 + 447 + 450, 451]
    assert [each.gateways[0].traffic.active for each in found.listeners] == [1340, 451]


def test_totals_do_not_fall_when_a_port_becomes_one_of_a_range() -> None:
    ranged = Listener(protocol="tcp", port=400, last_port=450, gateway_port=400)
    now = Sample(12.0, reading(20, 17, 14))
    [alone] = traffic_of(config(), {UID}, {UID}, now, now)
    [among] = traffic_of(config(listeners=(ranged,)), {UID}, {UID}, now, now)
    assert among.traffic == alone.traffic
    assert among.traffic.refused == 3


def test_totals_do_not_fall_when_a_gateway_is_removed() -> None:
    rest = (VIP, "tcp", 443, "0.0.0.0")
    counted = reading(20, 17, 14)
    closed = dataclasses.replace(
        counted,
        opened={**counted.opened, rest: 6},
        forth={**counted.forth, rest: Tally(60, 6000)},
        back={**counted.back, rest: Tally(40, 18000)},
    )
    now = Sample(12.0, closed, {})
    [before] = traffic_of(config(), {UID}, {UID}, now, now)
    left = (Gateway(name="gw2", address="10.77.0.32"),)
    [found] = traffic_of(config(gateways=left), {UID}, {UID}, now, now)
    assert found.traffic == before.traffic
    assert found.traffic.connections == 20
    assert found.traffic.bytes_in == 6700


def test_a_first_sample_has_no_rate() -> None:
    only = Sample(10.0, reading(10, 10, 10))
    [found] = traffic_of(config(), {UID}, set(), only, only)
    assert found.traffic.rate == found.traffic.active == -1
    assert not found.primary


def test_of_flows_that_are_not_remembered_packets_and_what_opens_them_are_known() -> None:
    port = (GATEWAY, "tcp", 8443)
    counted = dataclasses.replace(
        reading(opened=3),
        passed={port: Tally(9, 900)},
        answered={port: Tally(8, 800)},
        begun={port: Tally(5, 300)},
    )
    before = Sample(10.0, dataclasses.replace(counted, begun={port: Tally(1, 60)}))
    now = Sample(12.0, counted, {})
    [found] = traffic_of(config(forwarding="routed"), {UID}, {UID}, now, before)
    first, second, sixth = (gateway.traffic for gateway in found.listeners[0].gateways)
    amid_drains_in, amid_drains_out = Tally(7, 700), Tally(5, 500)
    assert (first.packets_in, first.bytes_in) == (9 + amid_drains_in.packets, 1600)
    assert (first.packets_out, first.bytes_out) == (8 + amid_drains_out.packets, 1300)
    assert (first.connections, first.active, first.rate) == (5, -1, 2.0)
    assert second.packets_in == 0
    assert sixth == Traffic(active=0, rate=0.0), "there is no VIP of its IP version"
    assert (found.traffic.refused, found.traffic.connections) == (-1, 5)
    assert found.traffic.bytes_in == 1600


def test_datagrams_that_are_not_remembered_open_nothing_that_is_known() -> None:
    dns = Listener(protocol="udp", port=53, gateway_port=53)
    now = Sample(12.0, reading(), {})
    for mode in ("routed", "dsr"):
        [found] = traffic_of(config(forwarding=mode, listeners=(dns,)), {UID}, {UID}, now, now)
        first = found.listeners[0].gateways[0].traffic
        assert (first.packets_in, first.connections, first.rate) == (0, -1, -1)


def test_what_passes_beside_the_device_is_unknown_and_not_in_the_metrics() -> None:
    own = reading(opened=2)
    counted = dataclasses.replace(
        own, sent={ACCOUNT: Tally(20, 2000)}, sent_first={ACCOUNT: Tally(4, 240)}
    )
    before, now = Sample(10.0, own), Sample(12.0, counted, {})
    [found] = traffic_of(config(forwarding="dsr"), {UID}, {UID}, now, before)
    first = found.listeners[0].gateways[0].traffic
    assert (first.packets_in, first.bytes_in) == (20 + 4 + 7, 2000 + 240 + 700)
    assert (first.connections, first.rate) == (4 + 2, 2.0)
    assert (first.packets_out, first.bytes_out, first.active) == (-1, -1, -1)
    assert (found.traffic.connections, found.traffic.packets_out) == (6, -1)
    text = render(BUSY, [found], Figures("0.1.0", {}, 3_000_000, {}, None))
    assert "-1" not in text
    labels = 'virtual_server="web",listener="tcp/443",gateway="gw1"'
    assert f'halb_packets_total{{{labels},direction="in"}} 31' in text
    assert f"halb_connections_total{{{labels}}} 6" in text
    assert 'gateway="gw1",direction="out"' not in text
    assert f"halb_active_connections{{{labels}}}" not in text


def exposition() -> str:
    now = Sample(12.0, reading(20, 17, 14), {})
    traffic = traffic_of(config(), {UID}, {UID}, now, now)
    figures = Figures(
        "0.1.0", {("two-owners", "rdp"): 2}, 3_000_000, {"refused": 1}, Room(10, 100), 7
    )
    return render(BUSY, traffic, figures)


def test_metrics_are_in_the_form_of_openmetrics() -> None:
    lines = exposition().splitlines()
    assert lines[-1] == "# EOF"
    family = ""
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            family = line.split()[2]
        elif not line.startswith("# HELP "):
            assert re.fullmatch(
                rf'{family}(_total)?(\{{\w+="[^"]*"(,\w+="[^"]*")*\}})? [-+.e\d]+', line
            )
    labels = 'virtual_server="web",listener="tcp/443"'
    assert f'halb_connections_total{{{labels},gateway="gw1"}} 14' in lines
    assert f"halb_refused_connections_total{{{labels}}} 3" in lines
    assert 'halb_events_total{virtual_server="rdp",kind="two-owners"} 2' in lines
    assert "halb_loop_lateness_seconds 0.003" in lines
    assert "halb_faults_total 7" in lines


def test_every_metric_is_documented_and_no_other() -> None:
    text = exposition()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    # Whatever else OpenMetrics knows, the older text format does not.
    suffix = {"counter": "_total", "gauge": ""}
    names = {name + suffix[kind] for name, kind in kinds.items()}
    documented = re.findall(r"^\| `(halb_\w+)`", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert names == set(documented)


def test_a_table_that_fills_up_is_said_once_until_it_is_over() -> None:
    alarm = Alarm()
    said = [alarm.note(Room(entries, 100)) for entries in (50, 79, 80, 95, 75, 69, 50)]
    assert [bool(text) for text in said] == [False, False, True, False, False, True, False]
    assert "80% full: 80 of 100" in said[2]
    assert not list(alarm.warnings())
    alarm.note(Room(90, 100))
    assert "nf_conntrack_max" in next(alarm.warnings())


def test_flows_that_are_lost_though_there_is_room_are_told_once() -> None:
    alarm = Alarm()
    dropped = (500, 550, 650, 651, 900)
    said = [alarm.note(Room(10, 100, number)) for number in dropped]
    assert [bool(text) for text in said] == [False, False, True, False, False]
    assert said[2].startswith("100 packets of new flows were dropped")
    (warning,) = alarm.warnings()
    assert "249 packets" in warning
    assert "at most 64512 flows" in warning
    for _ in range(KEPT_LOOKS):
        assert list(alarm.warnings())
        assert not alarm.note(Room(10, 100, 900))
    assert not list(alarm.warnings())


def test_what_was_dropped_is_read_of_all_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack_limit, "_STATISTICS", tmp_path / "nf_conntrack")
    assert conntrack_limit.dropped() == 0, "as where the kernel does not say"
    (tmp_path / "nf_conntrack").write_text(
        "entries  insert drop early_drop\n"
        "0000000a 00000001 0000000f 00000000\n"
        "0000000a 00000000 00000010 00000001\n"
    )
    assert conntrack_limit.dropped() == 31


def test_what_a_full_table_drops_is_its_own_fault() -> None:
    alarm = Alarm()
    assert "full" in alarm.note(Room(99, 100))
    assert not alarm.note(Room(99, 100, 5000))
    (warning,) = alarm.warnings()
    assert "nf_conntrack_max" in warning


FORWARD = Chain("ip", "filter", "FORWARD", "forward", 0, True)
RAW = Chain("ip", "raw", "PREROUTING", "prerouting", -300, False)


def test_chains_that_drop_by_policy_are_named_first() -> None:
    other = Chain("inet", "mine", "forward", "forward", -10, False)
    assert suspects([other, RAW, FORWARD], "forward") == (
        "table ip filter, chain FORWARD, policy drop; table inet mine, chain forward"
    )


def test_flows_that_others_took_away_are_told_with_the_chain() -> None:
    told: list[Event] = []
    watch = HostWatch(told.append, lambda: (FORWARD, RAW))
    watch.on_sample(Sample(1.0, reading(5, 5, 5)))
    assert not list(watch.warnings(1.0))
    watch.on_sample(Sample(11.0, reading(9, 9, 5, untracked=4)))
    watch.on_sample(Sample(21.0, reading(12, 12, 5, untracked=4)))
    dropped, untracked = watch.warnings(30.0)
    assert "tcp/443 of 10.77.0.100: 3 new flows" in dropped
    assert "table ip filter, chain FORWARD, policy drop" in dropped
    assert "4 packets" in untracked
    assert "table ip raw, chain PREROUTING" in untracked
    assert [event.kind for event in told] == ["obstacle", "obstacle"]
    assert not list(watch.warnings(1000.0))
