"""``halbctl listener``: the ports of a Virtual Server, and their checks."""

from __future__ import annotations

import json

import pytest

from protocol import api
from protocol.changes import PutVirtualServer
from protocol.document import VirtualServerDocument
from protocol.errors import ExitCode
from protocol.listener_document import ListenerDocument
from protocol.objects import Check
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


@pytest.fixture(autouse=True)
def _answers(peer: Peer) -> None:
    peer.answers[api.Export] = api.Exported(recorded.DOCUMENT, "3.17")
    peer.answers[api.PutChange] = recorded.DONE


def put(peer: Peer) -> VirtualServerDocument:
    """The Virtual Server that the agent was told to put."""
    change = peer.only(api.PutChange).change
    assert isinstance(change, PutVirtualServer)
    assert (change.must, change.if_revision) == ("exist", "3.17")
    return change.document


def listeners(peer: Peer) -> dict[str, ListenerDocument]:
    return {item.key: item for item in put(peer).listeners}


def test_listeners_are_listed_with_the_check_that_applies(halbctl: Halbctl) -> None:
    titles, tcp, udp = halbctl("listener", "list", "rdp").out.splitlines()
    assert titles.split() == ["LISTENER", "GATEWAY", "PORT", "BALANCE", "CHECK"]
    assert tcp.split() == ["tcp/443", "443", "hash", "tcp", "every", "1s"]
    assert udp.split() == ["udp/443", "443", "source-hash"]


def test_as_data_a_listener_has_every_field(halbctl: Halbctl) -> None:
    tcp, udp = json.loads(halbctl("listener", "list", "rdp", "-o", "json").out)
    assert udp["check"] is None
    assert tcp == {
        "listener": "tcp/443", "gateway_port": 443, "balance": "hash", "sticky": 0,
        "client_connections": 0, "client_rate": 0, "passive": False,
        "check": {
            "type": "tcp", "interval": 1.0, "timeout": 1.0, "fall": 3, "rise": 2, "port": None
        },
    }  # fmt: skip


def test_a_check_becomes_another_and_keeps_its_pace(halbctl: Halbctl, peer: Peer) -> None:
    given = ("--check", "https", "--check-path", "/health", "--check-expires-within", "14")
    assert halbctl("listener", "edit", "rdp", "tcp/443", *given).code == 0
    assert listeners(peer)["tcp/443"].check == Check(
        type="https", path="/health", expires_within=14, interval=1.0
    )
    assert listeners(peer)["udp/443"].check is None


def test_what_means_nothing_to_the_new_type_goes(halbctl: Halbctl, peer: Peer) -> None:
    check = {"type": "https", "path": "/health", "verify": True, "fall": 5}
    web = {
        "name": "web", "vips": ["10.77.0.101/24"],
        "listeners": [{"protocol": "tcp", "port": 80, "check": check}],
    }  # fmt: skip
    peer.answers[api.Export] = api.Exported({"site": "paris", "virtual_servers": [web]}, "3.17")
    assert halbctl("listener", "edit", "web", "tcp/80", "--check", "http").code == 0
    assert listeners(peer)["tcp/80"].check == Check(type="http", path="/health", fall=5)


def test_a_check_gets_a_port_of_its_own_and_loses_it_again(halbctl: Halbctl, peer: Peer) -> None:
    check = {"type": "tls", "port": 8443, "fall": 5}
    web = {
        "name": "web", "vips": ["10.77.0.101/24"],
        "listeners": [{"protocol": "tcp", "port": 80, "check": check}],
    }  # fmt: skip
    peer.answers[api.Export] = api.Exported({"site": "paris", "virtual_servers": [web]}, "3.17")
    assert halbctl("listener", "edit", "web", "tcp/80", "--check-port", "9443").code == 0
    assert listeners(peer)["tcp/80"].check == Check(type="tls", port=9443, fall=5)
    peer.requests.clear()
    assert halbctl("listener", "edit", "web", "tcp/80", "--check-port", "0").code == 0
    assert listeners(peer)["tcp/80"].check == Check(type="tls", fall=5)


def test_all_listeners_are_changed_at_once(halbctl: Halbctl, peer: Peer) -> None:
    given = ("--client-rate", "20", "--sticky", "5m", "--balance", "random")
    assert halbctl("listener", "edit", "rdp", "all", *given).code == 0
    for item in put(peer).listeners:
        assert (item.client_rate, item.sticky, item.balance) == (20, 300, "random")


def test_a_program_is_given_as_words(halbctl: Halbctl, peer: Peer) -> None:
    given = ("--check", "exec", "--check-command", "ask --name 'a b'")
    assert halbctl("listener", "edit", "rdp", "udp/443", *given).code == 0
    assert listeners(peer)["udp/443"].check == Check(type="exec", command=("ask", "--name", "a b"))


def test_a_listener_is_added_and_removed(halbctl: Halbctl, peer: Peer) -> None:
    assert halbctl("listener", "add", "rdp", "tcp/8080:80").code == 0
    assert list(listeners(peer)) == ["tcp/443", "udp/443", "tcp/8080"]
    assert listeners(peer)["tcp/8080"].gateway_port == 80
    peer.requests.clear()
    assert halbctl("listener", "remove", "rdp", "udp/443").code == 0
    assert list(listeners(peer)) == ["tcp/443"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("edit", "rdp", "tcp/443"), "nothing to change"),
        (("edit", "rdp", "tcp/444", "--client-rate", "1"), "'tcp/444'"),
        (("edit", "nobody", "tcp/443", "--client-rate", "1"), "'nobody'"),
        (("edit", "rdp", "udp/443", "--check-interval", "1"), "udp/443 has no check"),
        (("edit", "rdp", "udp/443", "--check-command", "'a"), "--check-command"),
        (("edit", "rdp", "tcp/443", "--check", "none", "--check-interval", "5"), "--check none"),
        (("add", "rdp", "sctp/443"), "'sctp/443'"),
        (("add", "rdp", "tcp/x"), "'x'"),
        (("add", "rdp", "tcp/"), "'tcp/' is not a listener"),
        (("edit", "rdp", "all", "tcp/443", "--client-rate", "1"), "'all' stands for"),
        (("remove", "rdp", "443"), "'443'"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(
    halbctl: Halbctl, peer: Peer, words: tuple[str, ...], names: str
) -> None:
    ran = halbctl("listener", *words)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert names in ran.err
    assert not [asked for asked in peer.requests if isinstance(asked.op, api.PutChange)]
