"""What a health check may say, by type."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.document import parse_site
from protocol.errors import InvalidInput
from protocol.health import OF_TYPE, check_health_check, has_status, octets
from protocol.objects import Check
from protocol.rendering import render_site
from tests.unit.paris import RDP, site

GOOD: dict[str, dict[str, Any]] = {
    "tls": {"name": "rdp.example", "verify": True, "expires_within": 14},
    "http": {"name": "10.0.0.7", "path": "/a?b=%20", "status": "200,301-302", "body": "ok"},
    "https": {"path": "/x", "verify": True, "expires_within": 1},
    "udp": {"payload": "hex:0aFF", "reply": "pong"},
    "exec": {"command": ["check-rdp", "--deep", "a b;c"]},
}
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "field of another type": ({"type": "tcp", "path": "/x"}, ("path", "type tcp", "http, https")),
    "expiry without TLS": ({"type": "http", "expires_within": 9}, ("expires_within", "tls, https")),
    "name with a port": ({"type": "http", "name": "a:80"}, ("name", "'a:80'", "`port`")),
    "name with two dots": ({"type": "https", "name": "a..b"}, ("no host name",)),
    "name with a long part": ({"type": "tls", "name": "a." + "b" * 64}, ("no host name",)),
    "name with a line break": ({"type": "http", "name": "a\r\nX: y"}, ("no host name",)),
    "path with a space": ({"type": "http", "path": "/a b"}, ("path", "%XX")),
    "path with a line break": ({"type": "http", "path": "/a\r\nX: y"}, ("path", "%XX")),
    "path without a slash": ({"type": "http", "path": "a"}, ("path", "Begin with `/`")),
    "status in words": ({"type": "http", "status": "ok"}, ("status", "'ok'", "200-399")),
    "status upside down": ({"type": "http", "status": "200,399-300"}, ("status", "399-300")),
    "status 999": ({"type": "http", "status": "200-999"}, ("status", "200-999")),
    "long body": ({"type": "http", "body": "x" * 1025}, ("body", "1024")),
    "days": ({"type": "tls", "expires_within": -1}, ("expires_within", "0 to 3650")),
    "half a byte": ({"type": "udp", "payload": "hex:123"}, ("payload", "pairs")),
    "no command": ({"type": "exec"}, ("command", "0 words")),
    "command with a path": ({"type": "exec", "command": ("/bin/sh", "-c")}, ("'/bin/sh'",)),
    "command above": ({"type": "exec", "command": ("..",)}, ("'..'", "without a path")),
    "too many words": ({"type": "exec", "command": ("a",) * 17}, ("17 words",)),
    "long word": ({"type": "exec", "command": ("a", "b" * 257)}, ("command[1]", "256")),
    "pace": ({"type": "tls", "interval": 0.0}, ("interval` is 0",)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_field_and_remedy(case: str) -> None:
    fields, words = WRONG[case]
    with pytest.raises(InvalidInput) as caught:
        check_health_check("check", Check(**fields))
    for word in words:
        assert word in f"{caught.value.message} {caught.value.remedy}"


@pytest.mark.parametrize("kind", GOOD)
def test_a_check_of_each_type_is_taken_and_exported_as_written(kind: str) -> None:
    listener = {"protocol": "tcp", "port": 443, "check": {"type": kind, **GOOD[kind]}}
    rendered: Any = render_site(site({**RDP, "listeners": [listener]}))
    assert rendered["virtual_servers"][0]["listeners"] == [listener]
    parse_site(rendered)


def test_every_field_but_pace_and_port_belongs_to_a_type() -> None:
    pace = {"type", "interval", "timeout", "fall", "rise", "port"}
    listed = {field for fields in OF_TYPE.values() for field in fields}
    assert listed == set(Check.__struct_fields__) - pace


def test_bytes_are_text_or_hex_digits() -> None:
    assert octets("hex:00 fF") == b"\x00\xff"
    assert octets("grüß") == "grüß".encode()
    assert octets("") == b""


@pytest.mark.parametrize(("status", "good"), [(199, False), (200, True), (302, True), (404, False)])
def test_a_list_of_statuses_has_ranges(status: int, good: bool) -> None:
    assert has_status(status, "200,301-303") is good
