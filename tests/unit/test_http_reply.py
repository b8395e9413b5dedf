"""Answers of HTTP that come in pieces: understood as if they came at once, for little work."""

from __future__ import annotations

import re

import pytest

from agent import http_reply
from agent.conversations import Conversation
from agent.http_reply import NotHttp, Reply
from agent.talks import _is_enough
from protocol.objects import Check

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS = [
    HEAD + b"Content-Length: 4\r\n\r\nbodyrest",
    HEAD + b"\r\nbody",
    b"HTTP/1.0 200\nServer: a script\n\nbody",
    b"HTTP/1.1 200 OK\nContent-Length: 4\n\r\nbodyrest",
    b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"\r\nbody",
    CHUNKED + b"2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n",
    CHUNKED + b"8\r\nbody",
]


def understood(answer: bytes, size: int) -> Reply:
    """An answer that comes in pieces of ``size``."""
    reply = Reply()
    for at in range(0, len(answer), size):
        reply.take(answer[at : at + size])
    return reply


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_means_the_same_however_it_is_cut(answer: bytes) -> None:
    whole = understood(answer, len(answer))
    assert (whole.status, bytes(whole.body)) == (200, b"body")
    for size in range(1, len(answer)):
        reply = understood(answer, size)
        assert (reply.status, bytes(reply.body), reply.whole) == (200, b"body", whole.whole)
    reply.take(b"")
    assert reply.whole


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("junk", [b"x" * 17_000, CHUNKED + b"x" * 17_000])
def test_what_cannot_be_understood_has_an_end(junk: bytes, size: int) -> None:
    with pytest.raises(NotHttp):
        understood(junk, size)


@pytest.mark.parametrize(
    ("said", "how"), [(b"", "without"), (HEAD, "amid"), (b"HTTP/1.1 200 OK\n", "amid")]
)
def test_one_that_closes_too_soon_is_told_from_one_that_says_nothing(said: bytes, how: str) -> None:
    reply = Reply()
    if said:
        reply.take(said)
    with pytest.raises(NotHttp, match=f"closed the connection {how} an answer"):
        reply.take(b"")


def test_a_text_is_found_that_two_pieces_share() -> None:
    about = Conversation("10.0.0.1", 80, Check(type="http", body="od"))
    reply = Reply()
    reply.take(HEAD + b"\r\nbo")
    assert not _is_enough(about, reply, searched=0)
    reply.take(b"dy")
    assert _is_enough(about, reply, searched=2)


class Counting:
    """A pattern that counts how often it is tried."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern, self.tried = pattern, 0

    def match(self, data: bytes, at: int) -> re.Match[bytes] | None:
        self.tried += 1
        return self.pattern.match(data, at)


def test_what_was_understood_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(http_reply._CHUNK)
    monkeypatch.setattr(http_reply, "_CHUNK", counting)
    chunks, pieces = 1000, 1000
    reply = understood(CHUNKED + b"1\r\na\r\n" * chunks, 6 * chunks // pieces)
    assert len(reply.body) == chunks
    assert counting.tried <= chunks + pieces + len(CHUNKED)


@pytest.mark.parametrize("mark", [b"1;" + b"a" * 1000, b"1" + b" " * 1000, b"a" * 1000])
def test_the_mark_of_a_chunk_is_not_looked_at_again_with_each_piece_of_it(
    monkeypatch: pytest.MonkeyPatch, mark: bytes
) -> None:
    counting = Counting(http_reply._CHUNK)
    monkeypatch.setattr(http_reply, "_CHUNK", counting)
    reply = understood(CHUNKED + b"1\r\na\r\n", 1)
    before = counting.tried
    for byte in mark:
        reply.take(bytes([byte]))
    assert counting.tried == before
    for byte in b"\rX\r\n\r\n":
        reply.take(bytes([byte]))
    assert counting.tried == before + 1
    assert bytes(reply.body) == b"a"
