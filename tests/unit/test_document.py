"""Documents: what a person may write, and what they are told when it is wrong."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.changes import ApplyDocument
from protocol.config import Edit
from protocol.document import (
    MAX_DOCUMENT,
    SiteDocument,
    check_size,
    parse_site,
    parse_virtual_server,
)
from protocol.errors import ExitCode, InvalidInput
from protocol.listener_document import ListenerDocument
from protocol.objects import MAX_STICKY_S, Balance, Check
from protocol.rendering import render_site
from protocol.timing import Profile
from tests.unit.paris import RDP, WEB, edit, site


def refusal(data: object) -> InvalidInput:
    """What :func:`parse_site` says of ``data``."""
    with pytest.raises(InvalidInput) as caught:
        parse_site(data)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    return caught.value


def with_rdp(**changes: object) -> dict[str, object]:
    return {"virtual_servers": [{**RDP, **changes}]}


def test_a_whole_site_is_read() -> None:
    document = parse_site({"site": "paris", "virtual_servers": [RDP, WEB]})
    assert document.site == "paris"
    rdp, web = document.virtual_servers
    assert rdp.devices == ("a", "b")
    assert rdp.profile is Profile.NORMAL
    assert rdp.gateways[0].weight == 1
    assert rdp.listeners == (ListenerDocument(protocol="tcp", port=443, check=Check()),)
    assert web.vips == ("10.77.0.101/24", "fd77::101/64")


def test_a_port_without_a_protocol_is_tcp() -> None:
    document = parse_virtual_server({"name": "x", "vips": ["10.0.0.1"], "listeners": [{"port": 9}]})
    assert document.listeners[0].protocol == "tcp"


BASE = "virtual_servers[0]"
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "port 0": ({"listeners": [{"port": 0}]}, (f"`{BASE}.listeners[0].port` is 0",)),
    "port 70000": (
        {"listeners": [{"port": 443}, {"port": 70000}]},
        (f"`{BASE}.listeners[1].port` is 70000", "65535"),
    ),
    "gateway port 0": ({"listeners": [{"port": 1, "gateway_port": 0}]}, ("gateway_port", "0")),
    "port in words": ({"listeners": [{"port": "http"}]}, ("'http'", "whole number")),
    "port true": ({"listeners": [{"port": True}]}, ("is true", "whole number")),
    "no port": ({"listeners": [{}]}, (f"`{BASE}.listeners[0].port` is missing",)),
    "same listener twice": (
        {"listeners": [{"port": 443}, {"protocol": "tcp", "port": 443}]},
        (f"`{BASE}.listeners[1]`", "tcp/443", "second time"),
    ),
    "unknown key": ({"profil": "fast"}, (f"`{BASE}.profil`", "'profile'")),
    "unknown key of a listener": ({"listeners": [{"prt": 1}]}, ("listeners[0].prt", "'port'")),
    "unknown key of a check": (
        {"listeners": [{"port": 1, "check": {"intervall": 1}}]},
        ("check.intervall", "'interval'"),
    ),
    "unknown profile": ({"profile": "fsat"}, ("'fsat'", "'fast'")),
    "unknown protocol": ({"listeners": [{"protocol": "sctp", "port": 1}]}, ("'sctp'", "tcp, udp")),
    "forwarding that is none": ({"forwarding": "nat"}, ("'nat'", "snat, routed, dsr")),
    "routed without a way back": ({"forwarding": "routed"}, ("inner_vips", "IPv4", "route back")),
    "inner VIP without routed": ({"inner_vips": ["10.77.0.101"]}, ("inner_vips", "snat", "Leave")),
    "inner VIP that is a VIP": (
        {"forwarding": "routed", "inner_vips": ["10.77.0.100/24"]},
        ("inner_vips", "10.77.0.100", "another address"),
    ),
    "another port with dsr": (
        {"forwarding": "dsr", "listeners": [{"port": 80, "gateway_port": 8080}]},
        ("gateway_port", "dsr", "alters no packet"),
    ),
    "a memory with dsr": (
        {"forwarding": "dsr", "listeners": [{"port": 80, "sticky": 60}]},
        ("sticky", "60", "no device remembers"),
    ),
    "passive without a check": (
        {"listeners": [{"port": 80, "passive": True, "check": {"type": "none"}}]},
        ("passive", "not checked", "another type"),
    ),
    "passive with dsr": (
        {"forwarding": "dsr", "listeners": [{"port": 80, "passive": True}]},
        ("passive", "dsr", "checks see"),
    ),
    "turns with dsr": (
        {"forwarding": "dsr", "listeners": [{"port": 80, "balance": "round-robin"}]},
        ("balance", "round-robin", "hash or source-hash"),
    ),
    "balance that is none": (
        {"listeners": [{"port": 1, "balance": "round-robbin"}]},
        ("'round-robbin'", "round-robin"),
    ),
    "sticky for ever": (
        {"listeners": [{"port": 1, "sticky": 10**9}]},
        (f"`{BASE}.listeners[0].sticky` is 1000000000", "0 to 604800 seconds"),
    ),
    "connections of a client": (
        {"listeners": [{"port": 1, "client_connections": -1}]},
        ("client_connections` is -1", "0 to 1000"),
    ),
    "rate of a client": (
        {"listeners": [{"port": 1, "client_rate": "10/s"}]},
        ("client_rate", "'10/s'", "whole number"),
    ),
    "room of a gateway": (
        {"gateways": [{"name": "g", "address": "10.1.1.1", "max_connections": 10**7}]},
        (f"`{BASE}.gateways[0].max_connections` is 10000000", "0 to 1000000"),
    ),
    "virtual MAC of a group": (
        {"virtual_mac": "01:00:5e:00:00:01"},
        (f"`{BASE}.virtual_mac`", "01:00:5e:00:00:01", "auto"),
    ),
    "slow start of a day": ({"slow_start": 86_400}, ("slow_start` is 86400", "0 to 3600")),
    "preempt without a time": ({"preempt": "soon"}, (f"`{BASE}.preempt`", "'soon'", "60s")),
    "preempt at once": ({"preempt": {"after": 0}}, (f"`{BASE}.preempt` is 0", "1 to 86400 s")),
    "arbiter": ({"arbiter": "10.77.0.256", "on_peer_loss": None}, ("arbiter", "10.77.0.256")),
    "arbiter a VIP": (
        {"arbiter": "10.77.0.100", "on_peer_loss": None},
        ("arbiter", "a VIP of", "router"),
    ),
    "arbiter and mode": ({"arbiter": "10.77.0.1", "on_peer_loss": "hold"}, ("Keep one",)),
    "on_peer_loss": ({"on_peer_loss": "server"}, ("on_peer_loss", "serve")),
    "wait_for_peer": (
        {"wait_for_peer": False, "on_peer_loss": None},
        ("wait_for_peer", "on_peer_loss"),
    ),
    "name that is a number": ({"name": 7}, (f"`{BASE}.name` is 7", "in quotes")),
    "name with a space": ({"name": "r d p"}, ("'r d p'", "63 letters")),
    "name with a line break": ({"name": "rdp\n"}, (f"`{BASE}.name`", "63 letters")),
    "no VIP": ({"vips": []}, (f"`{BASE}.vips`", "0 entries")),
    "one VIP without a list": ({"vips": "10.77.0.100"}, (f"`{BASE}.vips`", "a list")),
    "VIP that is no address": ({"vips": ["10.77.0.300/24"]}, ("10.77.0.300/24", "ADDRESS/PREFIX")),
    "VIP with a netmask": ({"vips": ["10.77.0.1/255.255.255.0"]}, ("prefix is not a number",)),
    "VIP with prefix 33": ({"vips": ["10.77.0.1/33"]}, ("out of range", "1 to 32")),
    "VIP with prefix 0": ({"vips": ["10.77.0.1/0"]}, ("out of range",)),
    "network as VIP": ({"vips": ["10.77.0.0/24"]}, ("network address of 10.77.0.0/24",)),
    "broadcast as VIP": ({"vips": ["10.77.0.255/24"]}, ("broadcast address of 10.77.0.0/24",)),
    "loopback as VIP": ({"vips": ["127.0.0.1"]}, ("loopback",)),
    "multicast as VIP": ({"vips": ["ff02::1"]}, ("multicast",)),
    "link-local VIP": ({"vips": ["fe80::1/64"]}, ("link-local",)),
    "VIP with an interface": ({"vips": ["fd77::1%eth0"]}, ("names an interface",)),
    "IPv4 within IPv6": ({"vips": ["::ffff:10.77.0.1"]}, ("Write 10.77.0.1.",)),
    "same VIP twice": ({"vips": ["fd77::1/64", "FD77:0::1"]}, ("vips[1]", "second time")),
    "gateway equal to the VIP": (
        {"gateways": [{"name": "g", "address": "10.77.0.100"}]},
        ("rdp/g", "10.77.0.100", "VIP"),
    ),
    "gateway named twice": (
        {"gateways": [{"name": "g", "address": "10.1.1.1"}, {"name": "g", "address": "10.1.1.2"}]},
        ("gateways[1]", "'g'", "second time"),
    ),
    "two gateways with one address": (
        {"gateways": [{"name": "g", "address": "10.1.1.1"}, {"name": "h", "address": "10.1.1.1"}]},
        ("'g'", "'h'", "10.1.1.1", "weight"),
    ),
    "gateway with a prefix": ({"gateways": [{"name": "g", "address": "10.1.1.1/24"}]}, ("/24",)),
    "weight 257": (
        {"gateways": [{"name": "g", "address": "10.1.1.1", "weight": 257}]},
        ("gateways[0].weight", "257", "0 to 256"),
    ),
    "weight -1": ({"gateways": [{"name": "g", "address": "10.1.1.1", "weight": -1}]}, ("-1",)),
    "gateways left empty": ({"gateways": None}, (f"`{BASE}.gateways` is empty", "a list")),
    "too many gateways": (
        {"gateways": [{"name": f"g{i}", "address": f"10.1.1.{i + 1}"} for i in range(101)]},
        ("101 entries", "100"),
    ),
    "device named twice": ({"devices": ["a", "b", "a"]}, ("devices[2]", "'a'")),
    "device that is witness too": ({"witnesses": ["a"]}, ("witnesses[0]", "'a'", "devices")),
    "eight voters": ({"devices": list("abcdefgh")}, ("more than 7 voters",)),
    "seven witnesses": ({"devices": [], "witnesses": list("abcdefg")}, ("more than 7 voters",)),
    "interval 0": (
        {"listeners": [{"port": 1, "check": {"interval": 0}}]},
        ("check.interval` is 0", "0.1 to 3600 seconds"),
    ),
    "timeout that is no number": (
        {"listeners": [{"port": 1, "check": {"timeout": float("nan")}}]},
        ("check.timeout", "nan"),
    ),
    "duration in words": (
        {"listeners": [{"port": 1, "check": {"interval": "2s"}}]},
        ("check.interval", "'2s'", "a number"),
    ),
    "fall 0": ({"listeners": [{"port": 1, "check": {"fall": 0}}]}, ("check.fall", "1 to 100")),
    "port beyond all integers": ({"listeners": [{"port": 2**70}]}, ("listeners[0].port",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_path_value_and_remedy(case: str) -> None:
    changes, words = WRONG[case]
    error = refusal(with_rdp(**changes))
    for word in words:
        assert word in f"{error.message} {error.remedy}", error


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (None, "the document is empty"),
        ([], "the document is a list"),
        ("rdp", "the document is 'rdp'"),
        ({"virtual_servers": {"rdp": {}}}, "`virtual_servers` is a mapping, not a list"),
        ({"virtual_server": []}, "`virtual_server` is not a known key"),
        ({"virtual_servers": [{True: 1}]}, "`virtual_servers[0].true` is not a known key"),
        ({"site": "no good", "virtual_servers": []}, "'no good'"),
    ],
)
def test_a_document_of_the_wrong_shape(data: object, word: str) -> None:
    assert word in refusal(data).message


def test_a_forgotten_key_does_not_delete_everything() -> None:
    error = refusal({"site": "paris"})
    assert "`virtual_servers` is missing" in error.message
    assert parse_site({"virtual_servers": []}) == SiteDocument()


def test_the_same_name_twice() -> None:
    other = {**WEB, "name": "rdp"}
    error = refusal({"virtual_servers": [RDP, other]})
    assert "`virtual_servers[1]`" in error.message
    assert "'rdp' a second time" in error.message


def test_two_virtual_servers_with_the_same_vip_and_port() -> None:
    other = {**RDP, "name": "second", "gateways": []}
    error = refusal({"virtual_servers": [RDP, other]})
    for word in ("'rdp'", "'second'", "10.77.0.100", "tcp/443"):
        assert word in error.message


def test_a_vip_belongs_to_one_virtual_server_also_with_other_ports() -> None:
    other = {"name": "second", "vips": ["10.77.0.100"], "listeners": [{"port": 1}]}
    error = refusal({"virtual_servers": [RDP, other]})
    assert "both have VIP 10.77.0.100" in error.message
    assert "one Virtual Server" in error.remedy


def test_a_gateway_that_is_the_vip_of_another_virtual_server() -> None:
    other = {**WEB, "gateways": [{"name": "g", "address": "10.77.0.100"}]}
    error = refusal({"virtual_servers": [RDP, other]})
    assert "gateway web/g" in error.message
    assert "'rdp'" in error.message


def test_a_document_over_one_mebibyte_is_not_parsed() -> None:
    assert check_size(b"x" * MAX_DOCUMENT) == b"x" * MAX_DOCUMENT
    with pytest.raises(InvalidInput, match="1 MiB") as caught:
        check_size(b"x" * (MAX_DOCUMENT + 1), "site.yaml")
    assert caught.value.message.startswith("site.yaml has 1048577 bytes")


def test_a_list_that_repeats_itself_is_refused_before_it_is_built() -> None:
    servers: list[object] = [RDP] * 200_000
    assert "200000 entries" in refusal({"virtual_servers": servers}).message


def test_a_recursive_value_is_shown_in_a_few_words() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "is a list" in refusal(with_rdp(name=loop)).message
    assert len(refusal(with_rdp(name="x" * 100_000)).message) < 200


def test_what_is_exported_leaves_out_defaults_and_ids() -> None:
    config = site(RDP, {**WEB, "vips": ["10.77.0.101", "fd77::101/64"]})
    assert render_site(config) == {
        "site": "paris",
        "virtual_servers": [RDP, {**WEB, "vips": ["10.77.0.101", "fd77::101/64"]}],
    }


def test_of_a_check_the_special_is_exported() -> None:
    listener = {"protocol": "udp", "port": 53, "check": {"interval": 5, "port": 8053}}
    rendered: Any = render_site(site({**RDP, "listeners": [listener]}))
    assert rendered["virtual_servers"][0]["listeners"] == [
        {"protocol": "udp", "port": 53, "check": {"type": "tcp", "interval": 5.0, "port": 8053}}
    ]


def test_an_empty_site_is_exported_as_one_that_can_be_applied() -> None:
    assert render_site(site()) == {"site": "paris", "virtual_servers": []}
    parse_site(render_site(site()))


CHECKS = st.none() | st.builds(
    lambda interval, fall, port: {"interval": interval, "fall": fall, "port": port},
    st.floats(0.1, 3600),
    st.integers(1, 100),
    st.none() | st.integers(1, 65535),
)
LISTENERS = st.lists(
    st.fixed_dictionaries(
        {"protocol": st.sampled_from(["tcp", "udp"]), "port": st.integers(1, 65535)},
        optional={
            "gateway_port": st.integers(1, 65535),
            "balance": st.sampled_from(get_args(Balance)),
            "sticky": st.integers(0, MAX_STICKY_S),
            "client_connections": st.integers(0, 1000),
            "client_rate": st.integers(0, 100_000),
            "check": CHECKS,
        },
    ),
    max_size=5,
    unique_by=lambda item: (item["protocol"], item["port"]),
)
GATEWAYS = st.lists(
    st.fixed_dictionaries(
        {"number": st.integers(1, 254)},
        optional={
            "weight": st.integers(0, 256),
            "state": st.sampled_from(["enabled", "draining", "disabled"]),
            "backup": st.booleans(),
            "max_connections": st.integers(0, 1_000_000),
        },
    ),
    max_size=5,
    unique_by=lambda item: item["number"],
)


@st.composite
def sites(draw: st.DrawFn) -> dict[str, object]:
    """Documents that are right."""
    servers: list[object] = []
    for number in range(draw(st.integers(0, 3))):
        gateways = [
            {"name": f"gw{g['number']}", "address": f"10.2.0.{g.pop('number')}", **g}
            for g in draw(GATEWAYS)
        ]
        prefix = draw(st.sampled_from(["", "/24", "/32"]))
        servers.append(
            {
                "name": f"vs{number}",
                "vips": [f"10.1.0.{number + 1}{prefix}"],
                "devices": draw(st.lists(st.sampled_from("abc"), unique=True)),
                "on_peer_loss": draw(st.sampled_from(["serve", "hold"])),
                "profile": draw(st.sampled_from(list(Profile))).value,
                "slow_start": draw(st.integers(0, 3600)),
                "preempt": draw(st.sampled_from([None, "after 90s", "2m", {"after": 60}])),
                "virtual_mac": draw(st.sampled_from([None, "auto", f"02-00-00-00-00-0{number}"])),
                "gateways": gateways,
                "listeners": draw(LISTENERS),
            }
        )
    return {"virtual_servers": servers}


@settings(deadline=None)
@given(sites())
def test_what_is_exported_describes_the_same_site(data: dict[str, Any]) -> None:
    config = site(*data["virtual_servers"])
    exported = render_site(config)
    again = parse_site(exported)
    assert edit(config, ApplyDocument(again)) == Edit()
    assert render_site(site(*(msgspec.to_builtins(s) for s in again.virtual_servers))) == exported


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["virtual_servers", "name", "vips", "listeners", "check", "port", "gateways"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_data_whatever_leads_to_another_error(data: object) -> None:
    with suppress(InvalidInput):
        parse_site(data)
