"""``apply``, ``diff`` and ``vs edit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from halbctl.yaml import dump, parse
from protocol import api, changes
from protocol.errors import ExitCode
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


@pytest.fixture(autouse=True)
def _answers(peer: Peer) -> None:
    peer.answers[api.Export] = api.Exported(recorded.DOCUMENT, "3.17")
    peer.answers[api.PutChange] = recorded.DONE


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(dump(recorded.DOCUMENT))
    return path


def test_what_export_prints_is_no_change(halbctl: Halbctl, site: Path) -> None:
    site.write_text(halbctl("export").out)
    ran = halbctl("diff", "-f", str(site))
    assert ran == (0, "", "no difference to revision 3.17\n")
    data = json.loads(halbctl("diff", "-f", str(site), "-o", "json").out)
    assert data == {"changed": False, "revision": "3.17", "diff": []}


def test_diff_shows_what_changes(halbctl: Halbctl, site: Path) -> None:
    site.write_text(site.read_text().replace("10.77.0.31, weight: 2", "10.77.0.31, weight: 5"))
    ran = halbctl("diff", "-f", str(site))
    assert ran.code == 0
    changed = [line for line in ran.out.splitlines() if line[0] in "+-" and line[1] not in "+-"]
    assert changed == [
        "-      - {name: gw1, address: 10.77.0.31, weight: 2}",
        "+      - {name: gw1, address: 10.77.0.31, weight: 5}",
    ]
    assert f"+++ {site}" in ran.out


def test_diff_shows_nothing_of_another_spelling(halbctl: Halbctl, site: Path, peer: Peer) -> None:
    rdp = {
        "name": "v6", "vips": ["fd77::64/64"], "virtual_mac": "ba:1b:01:02:03:04",
        "preempt": {"after": 60}, "devices": ["a", "b", "c"], "arbiter": "fd77::1",
        "gateways": [{"name": "gw2", "address": "fd77::31"}],
        "listeners": [{"protocol": "tcp", "port": 80, "check": {"type": "tcp"}}],
    }  # fmt: skip
    peer.answers[api.Export] = api.Exported({"site": "paris", "virtual_servers": [rdp]}, "3.17")
    site.write_text("""
virtual_servers:
  - name: v6
    vips: ["FD77:0:0::64/64"]
    virtual_mac: auto
    preempt: after 60s
    slow_start: 0
    arbiter: FD77::1
    devices: [a, b, c]
    gateways: [{name: gw2, address: "FD77::31", weight: 1}]
    listeners: [{port: 80, gateway_port: 80, check: {}}]
""")
    assert halbctl("diff", "-f", str(site)) == (0, "", "no difference to revision 3.17\n")


def test_diff_refuses_what_apply_would(peer: Peer, halbctl: Halbctl, site: Path) -> None:
    peer.answers[api.PutChange] = api.Failure(1, "the document is for Site 'london'", "Correct it.")
    ran = halbctl("diff", "-f", str(site))
    assert (ran.code, ran.out) == (1, "")
    assert "london" in ran.err
    assert peer.only(api.PutChange).dry_run


def test_diff_says_when_a_drain_ends(halbctl: Halbctl, site: Path) -> None:
    more = "weight: 2, state: draining, drain_until: 1746093600"
    site.write_text(site.read_text().replace("weight: 2", more))
    lines = halbctl("diff", "-f", str(site)).out.splitlines()
    (added,) = (line for line in lines if line.startswith("+ "))
    assert added.endswith(f"{more}}}  # 2025-05-01 10:00:00Z")


def test_the_order_of_virtual_servers_means_nothing(halbctl: Halbctl, site: Path) -> None:
    document = yaml.safe_load(site.read_text())
    document["virtual_servers"].reverse()
    site.write_text(yaml.safe_dump(document))
    assert halbctl("diff", "-f", str(site)).out == ""


def test_apply_sends_the_document(peer: Peer, halbctl: Halbctl, site: Path) -> None:
    ran = halbctl("apply", "-f", str(site), "--if-revision", "3.17")
    assert ran == (0, "", "stored by 2 of 3 devices\n")
    put = peer.only(api.PutChange)
    assert (put.if_revision, put.dry_run) == ("3.17", False)
    assert isinstance(put.change, changes.ApplyDocument)
    assert [vs.name for vs in put.change.document.virtual_servers] == ["rdp", "web"]


def test_a_dry_run_is_checked_by_the_agent_and_shows_the_difference(
    peer: Peer, halbctl: Halbctl, site: Path
) -> None:
    peer.answers[api.PutChange] = api.Done("- virtual server web\n~ rdp", "3.17")
    document = yaml.safe_load(site.read_text())
    del document["virtual_servers"][1]
    site.write_text(yaml.safe_dump(document))
    ran = halbctl("apply", "-f", str(site), "--dry-run")
    assert peer.only(api.PutChange).dry_run
    assert ran == (0, "- virtual server web\n~ rdp\n", "")
    data = json.loads(halbctl("apply", "-f", str(site), "--dry-run", "-o", "json").out)
    assert data == {"changed": True, "revision": "3.17", "diff": ["- virtual server web", "~ rdp"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2"),
        ("site: paris\nsite: london\n", "line 2, column 1: the key 'site' is here twice"),
        ("site: !!python/object:os.system x\n", "line 1, column 7"),
        ("a: &a [*a]\n", "an alias within what it stands for"),
        ("[" * 200, "nested deeper than 32 levels"),
        ("x: \x07\n", "is not YAML"),
        ("- one\n--- \n- two\n", "expected a single document"),
        ("d: !!int x\n", "invalid literal"),
        ("site: !!int ''\n", "line 1, column 7: '' is not what the tag before it says"),
        ("frozen: !!bool maybe\n", "line 1, column 9: 'maybe' is not what the tag"),
        ("virtual_servers: !!set {a}\n", "line 1, column 18: could not determine a constructor"),
        ("site: !!binary aGFsYg==\n", "tag:yaml.org,2002:binary"),
    ],
)
def test_yaml_that_cannot_be_read(
    peer: Peer, halbctl: Halbctl, site: Path, text: str, says: str
) -> None:
    site.write_text(text)
    ran = halbctl("apply", "-f", str(site))
    assert ran.code == ExitCode.USAGE
    assert str(site) in ran.err
    assert says in ran.err
    assert "\\n" not in ran.err, "a sentence has no line breaks"
    assert peer.requests == []


TEXTS = ["ok \U0001f600", "a\x85b", "a\u2028b\u2029", "\ufeff", "\xff\ud7ff\ue000", "a\r\n\tb"]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_of_any_kind_can_be_exported_and_read_again(
    peer: Peer, halbctl: Halbctl, form: str, text: str
) -> None:
    document: dict[str, object] = {"site": "paris", "virtual_servers": [{"name": text}]}
    peer.answers[api.Export] = api.Exported(document, "3.17")
    exported = halbctl("export", "-o", form).out
    assert parse(exported.encode(), "x") == document


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d"])
def test_half_of_a_character_is_refused(
    peer: Peer, halbctl: Halbctl, site: Path, half: str
) -> None:
    site.write_text(f'{{"site": "{half}", "virtual_servers": []}}')
    for command in ("apply", "diff"):
        ran = halbctl(command, "-f", str(site))
        assert ran.code == ExitCode.USAGE
        assert "line 1, column 10: half of a character" in ran.err
    assert not peer.requests


def test_a_bomb_of_aliases_is_refused_in_time(halbctl: Halbctl, site: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    site.write_text("\n".join(lines))
    ran = halbctl("apply", "-f", str(site))
    assert ran.code == ExitCode.USAGE
    assert "aliases counted in full" in ran.err


def test_a_huge_document_is_refused_unread(halbctl: Halbctl, site: Path) -> None:
    site.write_bytes(b"#" * (1024 * 1024 + 1))
    ran = halbctl("apply", "-f", str(site))
    assert ran.code == ExitCode.USAGE
    assert "is larger than 1 MiB" in ran.err


def test_an_unknown_key_names_the_nearest(peer: Peer, halbctl: Halbctl, site: Path) -> None:
    site.write_text("virtual_servers: [{name: rdp, vipps: [10.77.0.100/24]}]\n")
    ran = halbctl("apply", "-f", str(site))
    assert ran.code == ExitCode.USAGE
    assert "vipps" in ran.err
    assert "vips" in ran.err.replace("vipps", "")
    assert peer.requests == []


def test_edit_by_options_rests_on_the_exported_revision(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("vs", "edit", "rdp", "--profile", "fast", "--tcp", "443", "--tcp", "8443")
    assert ran.code == 0
    put = peer.only(api.PutChange)
    assert (put.if_revision, put.change.if_revision) == (None, "3.17")
    assert put.change.must == "exist"
    new = put.change.document
    assert new.profile == "fast"
    assert new.devices == ("a", "b")
    assert [(item.protocol, item.port) for item in new.listeners] == [
        ("tcp", 443), ("tcp", 8443), ("udp", 443),
    ]  # fmt: skip
    assert new.listeners[0].check.interval == 1.0
    assert new.listeners[2].balance == "source-hash"


@pytest.mark.parametrize(("said", "meant"), [("auto", "auto"), ("no", None)])
def test_edit_takes_a_virtual_mac(
    peer: Peer, halbctl: Halbctl, said: str, meant: str | None
) -> None:
    assert halbctl("vs", "edit", "rdp", "--virtual-mac", said).code == 0
    assert peer.only(api.PutChange).change.document.virtual_mac == meant


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (("--profile", "fast"), ("10.77.0.9", None)),
        (("--arbiter", "10.77.0.1"), ("10.77.0.1", None)),
        (("--on-peer-loss", "hold"), (None, "hold")),
        (("--arbiter", "no"), (None, None)),
        (("--on-peer-loss", "no"), ("10.77.0.9", None)),
        (("--arbiter", "no", "--on-peer-loss", "serve"), (None, "serve")),
    ],
)
def test_what_one_of_two_does_alone_can_be_replaced_and_taken_back(
    peer: Peer, halbctl: Halbctl, options: tuple[str, ...], meant: tuple[str | None, str | None]
) -> None:
    rdp, *others = cast(Any, recorded.DOCUMENT)["virtual_servers"]
    document: dict[str, object]
    document = {"site": "paris", "virtual_servers": [{**rdp, "arbiter": "10.77.0.9"}, *others]}
    peer.answers[api.Export] = api.Exported(document, "3.17")
    assert halbctl("vs", "edit", "rdp", *options).code == 0
    put = peer.only(api.PutChange).change.document
    assert (put.arbiter, put.on_peer_loss) == meant


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (("--device", "b"), (("b",), ("w",), ["tcp/443", "udp/443"])),
        (("--device", "all"), ((), ("w",), ["tcp/443", "udp/443"])),
        (("--witness", "no"), (("a", "b"), (), ["tcp/443", "udp/443"])),
        (("--udp", "no"), (("a", "b"), ("w",), ["tcp/443"])),
        (("--tcp", "no", "--udp", "no"), (("a", "b"), ("w",), [])),
        (("--device", "all", "--device", "b"), (("all", "b"), ("w",), ["tcp/443", "udp/443"])),
    ],
)
def test_a_list_can_be_replaced_and_taken_back(
    peer: Peer, halbctl: Halbctl, options: tuple[str, ...], meant: tuple[object, ...]
) -> None:
    rdp, *others = cast(Any, recorded.DOCUMENT)["virtual_servers"]
    document: dict[str, object]
    document = {"site": "paris", "virtual_servers": [{**rdp, "witnesses": ["w"]}, *others]}
    peer.answers[api.Export] = api.Exported(document, "3.17")
    assert halbctl("vs", "edit", "rdp", *options).code == 0
    put = peer.only(api.PutChange).change.document
    assert (put.devices, put.witnesses, [item.key for item in put.listeners]) == meant


def test_what_is_the_default_can_be_said_of_a_new_virtual_server(
    peer: Peer, halbctl: Halbctl
) -> None:
    words = ("--vip", "10.0.0.1/24", "--device", "all", "--witness", "no", "--udp", "no")
    assert halbctl("vs", "create", "x", *words).code == 0
    made = peer.only(api.PutChange).change.document
    assert (made.devices, made.witnesses, made.listeners) == ((), (), ())


def test_an_edit_may_rest_on_the_whole_site(peer: Peer, halbctl: Halbctl) -> None:
    assert halbctl("vs", "edit", "rdp", "--profile", "fast", "--if-revision", "3.16").code == 0
    assert peer.only(api.PutChange).if_revision == "3.16"


def test_an_edit_that_lost_the_race_says_so(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.PutChange] = api.Failure(4, "the Site is at 3.18, not 3.17", "Try again.")
    assert halbctl("vs", "edit", "rdp", "--profile", "fast").code == ExitCode.CONFLICT


def test_edit_without_options_needs_a_terminal(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("vs", "edit", "rdp")
    assert ran.code == ExitCode.USAGE
    assert "no terminal to edit in" in ran.err


def test_edit_of_an_unknown_virtual_server(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("vs", "edit", "nope", "--profile", "fast")
    assert ran.code == ExitCode.USAGE
    assert "hint: Known: rdp, web." in ran.err


def test_names_are_no_booleans_and_no_dates() -> None:
    assert parse("[no, on, y, 2025-01-01, true, false, 7]", "x") == [
        "no", "on", "y", "2025-01-01", True, False, 7,
    ]  # fmt: skip


def test_a_dumped_document_reads_like_one_written_by_hand() -> None:
    assert (
        dump(recorded.DOCUMENT)
        == """\
site: paris
virtual_servers:
  - name: rdp
    vips: [10.77.0.100/24, 'fd77::100/64']
    devices: [a, b]
    gateways:
      - {name: gw1, address: 10.77.0.31, weight: 2}
      - {name: gw2, address: 10.77.0.32}
      - {name: gw3, address: 'fd77::31'}
    listeners:
      - protocol: tcp
        port: 443
        check: {type: tcp, interval: 1.0}
      - {protocol: udp, port: 443, balance: source-hash}
  - name: web
    vips: [10.77.0.101/24]
    listeners:
      - {protocol: tcp, port: 80}
"""
    )
    assert yaml.safe_load(dump(recorded.DOCUMENT)) == recorded.DOCUMENT


def test_apply_waits_until_every_device_uses_it(peer: Peer, halbctl: Halbctl, site: Path) -> None:
    devices = tuple(msgspec.structs.replace(d, revision="3.18") for d in recorded.BUSY.devices)
    peer.answers[api.GetStatus] = msgspec.structs.replace(recorded.BUSY, devices=devices)
    assert halbctl("apply", "-f", str(site), "--wait", "--yes").code == 0


def test_apply_names_the_devices_that_cannot_use_it(
    peer: Peer, halbctl: Halbctl, site: Path
) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    ran = halbctl("apply", "-f", str(site), "--wait", "--yes", "--timeout", "0.3")
    assert ran.code == 7
    assert "b (at 3.16" in ran.err
    assert "last good configuration" in ran.err


def test_inner_vips_are_taken_back(peer: Peer, halbctl: Halbctl) -> None:
    routed = {
        "name": "web", "vips": ["10.77.0.101/24"], "forwarding": "routed",
        "inner_vips": ["10.77.1.1/24"], "listeners": [{"protocol": "tcp", "port": 80}],
    }  # fmt: skip
    peer.answers[api.Export] = api.Exported({"site": "paris", "virtual_servers": [routed]}, "3.17")
    assert halbctl("vs", "edit", "web", "--inner-vip", "no").code == 0
    assert cast("Any", peer.only(api.PutChange).change).document.inner_vips == ()
