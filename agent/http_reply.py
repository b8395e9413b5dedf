"""As much of HTTP/1 as a check needs: an answer's status, and the beginning of its body. Pure.

A gateway may send its answer in the smallest of pieces. What was understood is not looked at
again with the next one, or one check of one gateway would keep the agent's loop busy.
"""

from __future__ import annotations

import re

MAX_HEAD = 16 * 1024
"""Bytes of status line and header fields, of all 1xx that come before the answer as well."""
_LINE = b"\r\n"
_END = re.compile(rb"\r?\n\r?\n")
"""Of a header. Lines of it may end as those of small scripts do (RFC 9112, 2.2)."""
_LONGEST_END = 4
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?")
_CHUNK = re.compile(rb"(?:\r\n)?([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\r\n]*)?\r\n")
"""The mark before a chunk, behind the end of the one before."""
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


class NotHttp(Exception):
    """What came is no answer of HTTP/1; the message says why."""


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


class Reply:
    """An answer that comes in pieces; :meth:`take` raises :class:`NotHttp`."""

    def __init__(self) -> None:
        self.status = 0
        """0 until its head is there."""
        self.body = bytearray()
        """As far as it has come, without the marks between chunks."""
        self.whole = False
        """Nothing follows."""
        self._data = bytearray()
        self._at = 0
        """Where in it begins what was not understood yet."""
        self._chunked = False
        self._left: int | None = None
        """Of the body, or of a chunk, still to come; None where nothing tells."""
        self._senseless = False
        """What stands where the next chunk should begin is no mark of one."""

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return len(self._data)

    def take(self, more: bytes) -> None:
        """The next piece; an empty one says that no more will come."""
        searched = len(self._data) + 1 - _LONGEST_END
        self._data += more
        while not self.status and (end := _END.search(self._data, max(self._at, searched))):
            self._read_head(end)
        if not self.status:
            self._refuse_early(ended=not more)
            return
        if self._chunked:
            self._read_chunks(searched)
        else:
            self._read_body()
            self.whole = self._left == 0
        self.whole = self.whole or not more

    def _read_head(self, end: re.Match[bytes]) -> None:
        """After one of 1xx the answer proper follows."""
        first, *fields = bytes(self._data[self._at : end.start()]).split(b"\n")
        self._at = end.end()
        found = _STATUS.fullmatch(first.removesuffix(b"\r"))
        if found is None or end.start() > MAX_HEAD:
            raise NotHttp("the answer is not HTTP" if found is None else "the header is too long")
        status = int(found[1])
        if status < 200:
            return
        self.status = status
        headers = dict(map(_field, fields))
        self._chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        length = headers.get(b"content-length", b"")
        if self._chunked:
            self._left = 0
        elif length.isdigit() and len(length) <= 18:
            self._left = int(length)

    def _refuse_early(self, *, ended: bool) -> None:
        if not b"HTTP/1.".startswith(bytes(self._data[self._at : self._at + 7])):
            raise NotHttp("the answer is not HTTP")
        if len(self._data) > MAX_HEAD:
            raise NotHttp("the header is too long")
        if ended:
            began = self._at < len(self._data)
            raise NotHttp(f"closed the connection {'amid' if began else 'without'} an answer")

    def _read_body(self) -> None:
        """What has come of the body, or of the present chunk."""
        end = len(self._data) if self._left is None else self._at + self._left
        came = self._data[self._at : end]
        self.body += came
        self._at += len(came)
        if self._left is not None:
            self._left -= len(came)

    def _read_chunks(self, searched: int) -> None:
        """RFC 9112, 7.1. Before ``searched`` was no end of a mark."""
        while not self.whole:
            self._read_body()
            mark = self._next_mark(searched)
            if self._left or mark is None:
                if len(self._data) - self._at > MAX_HEAD:
                    raise NotHttp("the chunks of the body cannot be read")
                return
            self._left, self._at = int(mark[1], 16), mark.end()
            self.whole = not self._left

    def _next_mark(self, searched: int) -> re.Match[bytes] | None:
        """The mark that comes next, if it has come to its end; it may be long."""
        begins = self._at + len(_LINE) * self._data.startswith(_LINE, self._at)
        if self._senseless or self._data.find(_LINE, max(begins, searched)) < 0:
            return None
        mark = _CHUNK.match(self._data, self._at)
        self._senseless = mark is None
        return mark


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()
