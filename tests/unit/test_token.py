"""Join tokens: a string that survives copying, or says that it did not."""

from __future__ import annotations

import base64
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ExitCode, InvalidInput
from protocol.token import MAX_CHARS, MAX_MEMBERS, PREFIX, JoinToken, digest_of, shows_secret

SECRET = "0123456789abcdef" * 2
TOKEN = JoinToken(
    site="5" * 16,
    site_name="paris",
    id="7" * 16,
    secret=SECRET,
    members=(("k" * 40, ("10.77.0.11:7480", "[fd77::11]:7480")), ("l" * 40, ("10.77.0.12:7480",))),
    expires_at=1_700_003_600,
)


def refusal(text: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        JoinToken.decode(text)
    error = caught.value
    assert error.exit_code == ExitCode.USAGE
    assert "halbctl token create" in error.remedy or "release" in error.remedy
    assert SECRET not in str(error)
    return error


def test_a_token_is_one_word_that_reads_back() -> None:
    text = TOKEN.encode()
    assert text.startswith("halb1-")
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert JoinToken.decode(text) == TOKEN


def test_white_space_of_a_wrapped_line_does_no_harm() -> None:
    text = TOKEN.encode()
    wrapped = "\n".join(text[i : i + 72] for i in range(0, len(text), 72))
    assert JoinToken.decode(f"  {wrapped}\r\n") == TOKEN


@pytest.mark.parametrize("text", ["", "nonsense", "halb", "HALB1-abc", "-", "é" * 10])
def test_what_is_no_token(text: str) -> None:
    assert "no join token" in refusal(text).message


def test_a_token_of_another_release() -> None:
    error = refusal("halb2-" + TOKEN.encode().removeprefix(PREFIX))
    assert "another release" in error.message
    assert "halb-agent" in error.remedy


@settings(deadline=None)
@given(st.integers(len(PREFIX), len(TOKEN.encode()) - 1))
def test_a_truncated_copy_is_told_apart(length: int) -> None:
    error = refusal(TOKEN.encode()[:length])
    assert "garbled" in error.message
    assert "Copy it again" in error.remedy


@settings(deadline=None)
@given(
    st.integers(len(PREFIX), len(TOKEN.encode()) - 2),
    st.sampled_from("abcXYZ019-_=+/ é\x00"),
)
def test_one_changed_character_is_told_apart(position: int, character: str) -> None:
    text = TOKEN.encode()
    changed = text[:position] + character + text[position + 1 :]
    if changed != text:
        assert "garbled" in refusal(changed).message


def test_endless_text_is_not_looked_at() -> None:
    assert "longer than" in refusal(PREFIX + "a" * MAX_CHARS).message
    assert "longer than" in refusal(PREFIX + " " * 10_000_000).message


BAD: dict[str, dict[str, Any]] = {
    "site id": {"site": "paris"},
    "name": {"site_name": "no good"},
    "token id": {"id": "7"},
    "secret": {"secret": "short"},
    "no members": {"members": ()},
    "public key": {"members": (("k", ("10.0.0.1:7480",)),)},
    "no address": {"members": (("k" * 40, ()),)},
    "address": {"members": (("k" * 40, ("example.org:7480",)),)},
    "expiry": {"expires_at": -1},
}


@pytest.mark.parametrize("case", BAD)
def test_contents_are_checked_although_the_checksum_is_right(case: str) -> None:
    forged = msgspec.structs.replace(TOKEN, **BAD[case])
    assert "garbled" in refusal(forged.encode()).message


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_whatever_lead_to_another_error(packed: bytes) -> None:
    from protocol.token import _checksum

    text = base64.urlsafe_b64encode(packed + _checksum(packed)).decode().rstrip("=")
    with suppress(InvalidInput):
        JoinToken.decode(PREFIX + text)


@settings(deadline=None)
@given(
    st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(), st.lists)
)
def test_no_data_whatever_leads_to_another_error(data: object) -> None:
    from protocol.token import _checksum

    packed = msgpack.packb(data)
    text = base64.urlsafe_b64encode(packed + _checksum(packed)).decode().rstrip("=")
    with suppress(InvalidInput):
        JoinToken.decode(PREFIX + text)


def test_a_list_that_claims_to_be_long_is_refused_before_room_is_made_for_it() -> None:
    from protocol.token import _checksum

    packed = (b"\xdc\x0b\xb8" * 900).ljust(3000, b"\xc0")
    text = base64.urlsafe_b64encode(packed + _checksum(packed)).decode().rstrip("=")
    tracemalloc.start()
    try:
        assert "not made by halbctl" in refusal(PREFIX + text).message
        assert tracemalloc.get_traced_memory()[1] < 100 * MAX_CHARS
    finally:
        tracemalloc.stop()


def test_of_many_members_a_token_names_a_few() -> None:
    many = tuple((f"{i:040d}", (f"10.77.0.{i}:7480",)) for i in range(1, 200))
    text = msgspec.structs.replace(TOKEN, members=many).encode()
    assert len(text) < MAX_CHARS
    assert JoinToken.decode(text).members == many[:MAX_MEMBERS]


def test_the_longest_token_can_be_read() -> None:
    addresses = tuple(
        f"[2001:db8:1111:2222:3333:4444:5555:{i:x}]:65532" for i in range(0xFF00, 0xFF02)
    )
    largest = msgspec.structs.replace(
        TOKEN,
        site_name="p" * 63,
        members=tuple((f"{i:040d}", addresses) for i in range(MAX_MEMBERS)),
    )
    assert JoinToken.decode(largest.encode()) == largest


def test_a_digest_shows_whether_a_secret_is_the_right_one() -> None:
    digest = digest_of(SECRET)
    assert len(digest) == 64
    assert SECRET not in digest
    assert shows_secret(SECRET, digest)
    assert not shows_secret(SECRET[:-1] + "e", digest)
    assert not shows_secret("", digest)
