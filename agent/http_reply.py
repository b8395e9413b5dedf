"""As much of HTTP/1 as a check needs: an answer's status, and the beginning of its body. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD = 16 * 1024
"""Bytes of status line and header fields, of all 1xx that come before the answer as well."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\r\n]*)?\r\n")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


class NotHttp(Exception):
    """What came is no answer of HTTP/1; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is known of an answer so far."""

    status: int
    body: bytes
    """As far as it has come, without the marks between chunks."""
    whole: bool
    """Nothing follows."""


def request(host: str, path: str) -> bytes:
    """A GET that asks for an answer that is not compressed, and for the end thereafter.

    ``host`` and ``path`` hold no white space or control characters.
    """
    assert not _CONTROL.search(host + path)
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: halb-check",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def read(data: bytes, *, ended: bool) -> Reply | None:
    """The answer in what was received so far; None while too little was.

    ``ended`` says that no more will come. Raises :class:`NotHttp`.
    """
    heads = 0
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            _refuse_early(data, ended=ended)
            return None
        heads += len(head)
        first, *fields = head.split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if found is None or heads > MAX_HEAD:
            raise NotHttp("the answer is not HTTP" if found is None else "the header is too long")
        status = int(found[1])
        if status >= 200:
            break
        data = rest  # 1xx: the answer proper follows
    headers = dict(_field(line) for line in fields)
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        body, whole = _joined(rest)
        return Reply(status, body, whole or ended)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and len(length) <= 18:
        rest = rest[: int(length)]
        ended = ended or len(rest) == int(length)
    return Reply(status, rest, ended)


def _refuse_early(data: bytes, *, ended: bool) -> None:
    if not b"HTTP/1.".startswith(data[:7]):
        raise NotHttp("the answer is not HTTP")
    if len(data) > MAX_HEAD:
        raise NotHttp("the header is too long")
    if ended:
        raise NotHttp("closed the connection without an answer")


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


def _joined(data: bytes) -> tuple[bytes, bool]:
    """The chunks in ``data`` (RFC 9112, 7.1) as one; whether the last one is among them."""
    parts: list[bytes] = []
    at = 0
    while True:
        mark = _CHUNK.match(data, at)
        if mark is None:
            if len(data) - at > MAX_HEAD:
                raise NotHttp("the chunks of the body cannot be read")
            return b"".join(parts), False
        size = int(mark[1], 16)
        if size == 0:
            return b"".join(parts), True
        parts.append(data[mark.end() : mark.end() + size])
        at = mark.end() + size + 2
        if at > len(data):
            return b"".join(parts), False
