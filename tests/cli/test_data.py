"""JSON and YAML output: fields are promises to scripts."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import msgspec
import pytest
import yaml

from halbctl import replies
from protocol import api, control, diagnosis, insight, traffic
from protocol.traffic import Counters
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


@pytest.fixture(autouse=True)
def _answers(peer: Peer) -> None:
    peer.answers |= {
        api.GetStatus: recorded.BUSY,
        api.GetHistory: recorded.HISTORY,
        api.Export: api.Exported(recorded.DOCUMENT, "3.17"),
        api.PutChange: recorded.DONE,
        api.CreateToken: api.TokenCreated("halb1-secret", "t1", 1746104400, 1),
        api.ListTokens: api.Tokens((api.TokenInfo("t1", 1746104400, 1, "alice"),)),
    }


def plain(value: object) -> Any:
    built = json.loads(msgspec.json.encode(value))
    built.pop("re", None)
    return built


def test_status_prints_exactly_the_agents_fields(halbctl: Halbctl) -> None:
    ran = halbctl("status", "--output", "json")
    assert ran.err == ""
    assert json.loads(ran.out) == plain(recorded.BUSY)
    found = json.loads(ran.out)
    assert list(found)[:4] == ["site", "revision", "device", "coordinator"]
    virtual_server = found["virtual_servers"][1]
    assert {"name", "vips", "state", "primary", "term", "since", "devices", "listeners",
            "gateways"} <= set(virtual_server)  # fmt: skip
    assert set(virtual_server["devices"][0]) == {"name", "role", "eligible", "reason"}
    assert {"name", "address", "state", "weight", "connections"} <= set(
        virtual_server["gateways"][0]
    )
    assert {"name", "id", "addresses", "state", "version", "drained"} <= set(found["devices"][0])


@pytest.mark.parametrize(
    ("typed", "struct"),
    [
        (replies.Status, api.Status),
        (replies.VirtualServer, api.VirtualServerStatus),
        (replies.Explanation, insight.Explanation),
        (replies.ExplainedDevice, insight.ExplainedDevice),
        (replies.Election, insight.ElectionTold),
        (replies.Matrix, insight.Matrix),
        (replies.Diagnosis, diagnosis.Diagnosis),
        (replies.Finding, diagnosis.Finding),
        (replies.Gateways, insight.Gateways),
        (replies.GatewayViews, insight.GatewayViews),
        (replies.GatewayView, insight.GatewayView),
        (replies.Link, insight.MatrixLink),
        (replies.VirtualServerDevice, api.VirtualServerDevice),
        (replies.Gateway, api.GatewayStatus),
        (replies.Listener, api.ListenerStatus),
        (replies.Device, api.DeviceStatus),
        (replies.Entry, api.HistoryEntry),
        (replies.Exported, api.Exported),
        (replies.Counters, traffic.Counters),
        (replies.VirtualServerTraffic, traffic.VirtualServerTraffic),
        (replies.ListenerTraffic, traffic.ListenerTraffic),
        (replies.GatewayTraffic, traffic.GatewayTraffic),
        (replies.Traffic, traffic.Traffic),
    ],
)
def test_plain_replies_have_the_fields_of_the_structs(
    typed: type, struct: type[msgspec.Struct]
) -> None:
    assert tuple(get_type_hints(typed)) == struct.__struct_fields__


def test_a_client_without_types_knows_the_same_constants() -> None:
    assert api.API_VERSION == control.API_VERSION
    assert api.MAX_FRAME == control.MAX_FRAME
    assert api.MAX_REPLY == control.MAX_REPLY


def test_output_may_be_yaml(halbctl: Halbctl) -> None:
    ran = halbctl("--output", "yaml", "status")
    assert yaml.safe_load(ran.out) == plain(recorded.BUSY)


def test_the_environment_sets_the_output(halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALB_OUTPUT", "json")
    assert json.loads(halbctl("device", "list").out) == plain(recorded.BUSY)["devices"]
    assert halbctl("device", "list", "-o", "table").out.startswith("DEVICE")


@pytest.mark.parametrize(
    "argv",
    [
        ("vs", "list", "-o", "json"),
        ("vs", "-o", "json", "list"),
        ("-o", "json", "vs", "list"),
        ("-o", "yaml", "vs", "list", "--output=json"),
    ],
)
def test_global_options_work_anywhere(halbctl: Halbctl, argv: tuple[str, ...]) -> None:
    assert json.loads(halbctl(*argv).out) == plain(recorded.BUSY)["virtual_servers"]


def test_one_object_prints_as_itself(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetCounters] = Counters("w", 1000, ())
    whole = plain(recorded.BUSY)
    shown = json.loads(halbctl("vs", "show", "rdp", "-o", "json").out)
    assert shown == {**whole["virtual_servers"][1], "traffic": None}
    shown = json.loads(halbctl("device", "show", "b", "-o", "json").out)
    parts = shown.pop("virtual_servers")
    assert shown == whole["devices"][1]
    assert {part["name"]: part["role"] for part in parts} == {
        vs["name"]: part["role"]
        for vs in whole["virtual_servers"]
        for part in vs["devices"]
        if part["name"] == "b"
    }


def test_history_prints_in_full(halbctl: Halbctl) -> None:
    assert json.loads(halbctl("history", "-o", "json").out) == plain(recorded.HISTORY)


def test_export_is_a_document_in_either_form(halbctl: Halbctl) -> None:
    exported = halbctl("export").out
    assert exported.startswith("# revision 3.17\n"), "to apply it --if-revision"
    assert yaml.safe_load(exported) == recorded.DOCUMENT
    assert json.loads(halbctl("export", "-o", "json").out) == recorded.DOCUMENT


def test_a_change_is_reported_as_data_too(halbctl: Halbctl) -> None:
    ran = halbctl("device", "drain", "b", "-o", "json")
    assert json.loads(ran.out) == {
        "detail": "stored by 2 of 3 devices", "revision": "3.18", "changed": True,
    }  # fmt: skip
    people = halbctl("device", "drain", "b")
    assert (people.out, people.err) == ("", "stored by 2 of 3 devices\n")


def test_a_new_token_is_all_that_stdout_gets(halbctl: Halbctl, peer: Peer) -> None:
    ran = halbctl("token", "create", "--ttl", "2h", "--uses", "3")
    assert ran.out == "halb1-secret\n"
    assert "t1 lets one device join until 2025-05-01 13:00:00Z" in ran.err
    assert peer.only(api.CreateToken) == api.CreateToken(7200, 3)
    tokens = json.loads(halbctl("token", "list", "-o", "json").out)
    assert tokens == [{"id": "t1", "expires_at": 1746104400, "uses_left": 1, "by": "alice"}]
    listed = halbctl("token", "list").out.splitlines()[1].split()
    assert (listed[:2], listed[-1]) == (["t1", "1"], "alice")


def test_version_names_client_and_agent(halbctl: Halbctl, peer: Peer) -> None:
    peer.answers[api.GetVersion] = api.VersionInfo("0.1.0", 1, 2, "a", "0123456789abcdef", "")
    ran = halbctl("version")
    assert "halb-agent 0.1.0   protocol 1 to 2" in ran.out
    assert "device     a (0123456789abcdef) of no Site yet" in ran.out
