"""Netlink in a few lines: the only file that opens netlink sockets.

Requests wait for the kernel's answer, tens of microseconds. Messages are
aligned to 4 bytes and in the host's byte order, except where a netfilter
attribute is in network order (RFC 3549; ``linux/netlink.h``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agent.capability import CapabilityMissing
from protocol.errors import HalbError

ROUTE = 0
XFRM = 6
NETFILTER = 12

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
_TORN = 0x10
"""Flag of an answer: what is listed has changed since the list began."""
_LISTINGS = 10
"""So often a torn list is made again."""
CREATE_EXCLUSIVE = 0x400 | 0x200

_GET_GENERATION, _GENERATION_ID = (10 << 8) | 16, 1
_GET_TABLE, _TABLE_NAME = (10 << 8) | 1, 1
_INET = struct.pack("!BBH", 1, 0, 0)
"""Header of a request about nftables of family inet."""
_ERROR, _DONE = 2, 3
_HEADER, _HEAD = struct.Struct("=IHHII"), struct.Struct("=IHH")
"""Of a message; and what is read of it."""
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_BUFFER = 1 << 20
_RCVBUFFORCE, _SOL_NETLINK, _CAP_ACK = 33, 270, 10
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 1, 2
_ATTACH_FILTER = 26
_AT_ONCE = 100
"""Requests of a :class:`Pipeline` in one system call."""
_CHANGE = "change connection entries"


class NetlinkError(HalbError):
    """The kernel refused a netlink request; ``code`` is the errno."""

    def __init__(self, purpose: str, code: int) -> None:
        super().__init__(f"the kernel refused to {purpose}: {os.strerror(code)}")
        self.code = code


@contextmanager
def _refused(purpose: str) -> Iterator[None]:
    """No descriptor or no memory is left, of this process or of the kernel: that is a refusal."""
    try:
        yield
    except OSError as error:
        raise NetlinkError(purpose, error.errno or errno.EIO) from error


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) pairs in ``data``; nested attributes are values to parse again."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4


def find(data: bytes, at: int, kind: int) -> bytes:
    """The value of one attribute of those that stand ``at``; empty if there is none."""
    while at + _ATTRIBUTE.size <= len(data):
        size, found = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        if found & _TYPE_MASK == kind:
            return data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return b""


def request(
    protocol: int, kind: int, body: bytes, *, flags: int = 0, purpose: str, whole: bool = False
) -> Iterator[bytes]:
    """Send one request and yield the bodies of its answers.

    A dump yields many, any other request what the kernel has to say before its
    acknowledgement. ``purpose`` completes "refused to ..." in errors: raises
    :class:`NetlinkError`, or :class:`CapabilityMissing` for EPERM. With ``whole`` a dump
    that is torn ends with EINTR.
    """
    flags |= REQUEST if flags & DUMP == DUMP else REQUEST | ACK
    question = _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body
    with _refused(purpose):
        yield from _answers(protocol, question, purpose, whole)


def _answers(protocol: int, question: bytes, purpose: str, whole: bool) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.send(question)
        torn = False
        while True:
            for answer, flags, payload in messages(sock.recv(_BUFFER)):
                torn = torn or (whole and flags & _TORN != 0)
                if answer not in (_ERROR, _DONE):
                    yield payload
                    continue
                # The end of a dump, too, may say that there was no more to be had.
                code = -struct.unpack_from("=i", payload)[0]
                if not code and torn:
                    code = errno.EINTR
                if not code:
                    return
                if code == errno.EPERM:
                    raise CapabilityMissing(["CAP_NET_ADMIN"], purpose)
                raise NetlinkError(purpose, code)


def listed(protocol: int, kind: int, body: bytes, *, purpose: str) -> list[bytes]:
    """All answers to a dump, which is made again where something changed meanwhile.

    The kernel goes on by number: what is removed in between hides others, which stay. Where
    changes have no end, the last list has to do.
    """
    for _ in range(_LISTINGS):
        try:
            return list(request(protocol, kind, body, flags=DUMP, purpose=purpose, whole=True))
        except NetlinkError as error:
            if error.code != errno.EINTR:
                raise
    return list(request(protocol, kind, body, flags=DUMP, purpose=purpose))


def execute(protocol: int, kind: int, body: bytes, *, flags: int = 0, purpose: str) -> None:
    """Send a request whose only answer is an acknowledgement; errors as :func:`request`."""
    for _ in request(protocol, kind, body, flags=flags, purpose=purpose):
        pass


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The (type, flags, body) of each message in one datagram from the kernel."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags = _HEAD.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, flags, data[at + _HEADER.size : at + size]
        at += size + -size % 4


def subscribe(protocol: int, *groups: int) -> socket.socket:
    """A non-blocking socket that receives the kernel's notices of multicast ``groups``.

    A reader that is too slow gets ENOBUFS and has to look at everything again.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setblocking(False)
        sock.bind((0, sum(1 << (group - 1) for group in groups)))
    except BaseException:
        sock.close()
        raise
    return sock


class Pipeline:
    """Many requests of one kind of work, without an acknowledgement for each.

    The kernel carries them out before :meth:`send` returns, and tells only of
    those that it refused.
    """

    def __init__(self, protocol: int) -> None:
        """Raises :class:`NetlinkError`."""
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with _refused(_CHANGE):
            self._sock = socket.socket(socket.AF_NETLINK, flags, protocol)
        enlarge(self._sock, _BUFFER)
        self._sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)

    def send(self, requests: Sequence[bytes]) -> dict[int, int]:
        """Send whole messages, numbered by their place, and return the errno of refused ones.

        Raises :class:`NetlinkError`, or :class:`CapabilityMissing` for EPERM.
        """
        refused: dict[int, int] = {}
        with _refused(_CHANGE):
            for start in range(0, len(requests), _AT_ONCE):
                self._sock.send(b"".join(requests[start : start + _AT_ONCE]))
                while answer := self._answer():
                    refused.update(_refusals(answer))
        return refused

    def _answer(self) -> bytes:
        try:
            return self._sock.recv(_BUFFER)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self._sock.close()


def _refusals(answer: bytes) -> Iterator[tuple[int, int]]:
    """The number of each refused request, and why."""
    for kind, _, payload in messages(answer):
        code, place = struct.unpack_from("=i8xI", payload)
        if kind == _ERROR and code == -errno.EPERM:
            raise CapabilityMissing(["CAP_NET_ADMIN"], _CHANGE)
        if kind == _ERROR and code:
            yield place, -code


def message(kind: int, body: bytes, *, flags: int = 0, number: int = 0) -> bytes:
    """One whole message, for :class:`Pipeline`; ``number`` is its place."""
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, kind, flags | REQUEST, number, 0) + body + bytes(-size % 4)


def enlarge(sock: socket.socket, size: int) -> None:
    """Let ``size`` bytes wait in a socket, beyond the host's limit where that is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def join(sock: socket.socket, group: int, *, member: bool) -> None:
    """Subscribe a socket to a multicast group of notices, or end that."""
    option = _ADD_MEMBERSHIP if member else _DROP_MEMBERSHIP
    sock.setsockopt(_SOL_NETLINK, option, group)


Program = tuple[tuple[int, int, int, int], ...]
"""A classic packet filter: code, jump if true, jump if false, constant of each instruction."""


def filter_with(sock: socket.socket, program: Program) -> None:
    """Let through only what ``program`` accepts; the rest never waits in the socket."""
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, head)


def has_table(name: str) -> bool:
    """Whether there is an nftables table of family inet with this name.

    libnftables would read all rules of the host to answer that, and keep the memory.
    """
    body = _INET + attribute(_TABLE_NAME, name.encode() + b"\0")
    try:
        execute(NETFILTER, _GET_TABLE, body, purpose=f"look for table {name}")
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise
    return True


def ruleset_generation() -> int:
    """A number that changes with every nftables transaction of this network namespace."""
    found = request(NETFILTER, _GET_GENERATION, bytes(4), purpose="read the generation of nftables")
    values = dict(attributes(next(found)[4:]))
    return int.from_bytes(values[_GENERATION_ID], "big")
