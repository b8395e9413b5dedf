"""Bytes of messages, configurations and the control API, by msgpack.

Every decoder takes bytes that anyone may have made: it bounds size, depth and
numbers, checks each field's type, takes no more memory than a bounded multiple
of those bytes, and raises :class:`MalformedMessage` with a short reason for all
that is not valid; it raises nothing else. Unknown fields are ignored, so that a
newer release may add some.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from math import isfinite
from typing import Any, NamedTuple, TypeVar, get_args

import msgpack
import msgspec

from protocol import api
from protocol.bundle import Frame
from protocol.config import Config, Epoch
from protocol.errors import MalformedMessage
from protocol.ids import Revision
from protocol.messages import PROTOCOL_MAX, URGENT, Message, ProposeChange
from protocol.objects import Record

MAX_URGENT = 64 * 1024
"""Largest frame of the lease plane, bytes: a beat with 1000 claims takes a third of it."""
MAX_BULK = 8 * 1024 * 1024
"""Largest frame of the configuration plane, bytes."""
MAX_DEPTH = 24
"""Deepest nesting of lists and maps."""
MAX_INTEGER = 2**63 - 1
MAX_ID = 64
"""Characters of a request's id: the configuration remembers it, twice, with what was done."""
LOWEST = -(2**63)
"""Smallest integer of what people write: their rules are checked later, with better errors."""

T = TypeVar("T")


def pack(value: object) -> bytes:
    """msgpack of a struct, or of lists, maps and numbers."""
    packed: bytes = msgpack.packb(_plain(value), use_bin_type=True)
    return packed


def unpack(data: bytes, kind: type[T], limit: int, *, lowest: int = 0) -> T:
    """A value of type ``kind`` from at most ``limit`` bytes, no integer below ``lowest``."""
    value: T = _read(data, kind, limit)
    _check(value, lowest)
    return value


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def _read(data: bytes, kind: Any, limit: int) -> Any:
    """Builds what ``kind`` asks for and nothing else.

    :func:`msgpack.unpackb` makes room for what each list claims to hold, and nests a thousand
    of them: 8 KiB took 64 MiB and 45 ms, and anyone can send them to a joining port.
    """
    if len(data) > limit:
        raise MalformedMessage(f"{len(data)} bytes where at most {limit} are allowed")
    try:
        return _decoder(kind).decode(data)
    except msgspec.ValidationError as e:
        name = getattr(kind, "__name__", "message")
        raise MalformedMessage(f"not a valid {name}: {str(e)[:200]}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as e:
        raise MalformedMessage(f"not msgpack: {str(e)[:100]}") from None


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def _check(value: object, lowest: int) -> None:
    try:
        plain = _plain(value)
    except (TypeError, RecursionError) as e:  # where a field may hold anything
        raise MalformedMessage(f"not plain data: {str(e)[:100]}") from None
    _check_plain(plain, lowest, MAX_DEPTH)


def _check_plain(plain: Any, lowest: int, depth: int) -> None:
    """Raise on nesting below ``depth``, and on numbers no field may hold."""
    kind = type(plain)
    if kind is int:
        if not lowest <= plain <= MAX_INTEGER:
            raise MalformedMessage(f"number {plain} is out of range")
    elif kind is list or kind is dict:
        if not depth:
            raise MalformedMessage(f"nested deeper than {MAX_DEPTH}")
        for item in plain if kind is list else plain.values():
            _check_plain(item, lowest, depth - 1)
    elif kind is float and not isfinite(plain):
        raise MalformedMessage(f"number {plain} is not finite")


# Messages between devices


class UnknownKind(MalformedMessage):
    """A message as a newer release may send it: dropped and counted, no fault of the peer."""


MAX_TAG = 32
"""Characters of the name of a kind of message."""

_TAGS = frozenset(kind.__struct_config__.tag for kind in get_args(Frame))


class _Tagged(msgspec.Struct, frozen=True):
    t: str = ""


def encode(message: Frame) -> bytes:
    """The body of a frame that carries ``message``."""
    return pack(message)


def decode(data: bytes, limit: int = MAX_BULK) -> Frame:
    """The message in a frame's body of at most ``limit`` bytes."""
    try:
        message: Frame = _read(data, Frame, limit)
    except MalformedMessage:
        _refuse_unknown(data, limit)
        raise
    _check(message, LOWEST if type(message) is ProposeChange else 0)
    return message


def _refuse_unknown(data: bytes, limit: int) -> None:
    tag: str = _read(data, _Tagged, limit).t
    if tag not in _TAGS and 0 < len(tag) <= MAX_TAG:
        raise UnknownKind(f"a message of kind {tag!r}, of a newer release")


def is_urgent(message: Message) -> bool:
    """Whether ``message`` belongs to the lease plane."""
    return isinstance(message, URGENT)


# The header in front of each body

MAGIC = b"HALB"
_HEADER = struct.Struct(">4sB3x8sQQ")
HEADER_SIZE = _HEADER.size


class Header(NamedTuple):
    """What a frame says about itself: enough to drop it without decoding its body."""

    version: int
    site: bytes
    """The Site's id, 8 bytes."""
    incarnation: int
    """Of the sender: grows with each start of its agent."""
    sequence: int
    """Of the sender's frames on this channel; the same on each of its links."""


def site_bytes(site: str) -> bytes:
    """A Site's id, 16 hex digits, as the header carries it."""
    return bytes.fromhex(site)


def pack_header(site: bytes, incarnation: int, sequence: int, version: int = PROTOCOL_MAX) -> bytes:
    """The header of a frame whose body is of protocol ``version``."""
    return _HEADER.pack(MAGIC, version, site, incarnation, sequence)


def unpack_header(frame: bytes, at: int = 0) -> Header:
    """The header of ``frame``, of whatever version: the caller judges that."""
    if len(frame) < at + HEADER_SIZE:
        raise MalformedMessage(f"a frame of {len(frame)} bytes has no header")
    magic, version, site, incarnation, sequence = _HEADER.unpack_from(frame, at)
    if magic != MAGIC:
        raise MalformedMessage("a frame without HALB's magic number")
    return Header(version, site, incarnation, sequence)


# Configuration, for disk and for joining


class _StoredConfig(msgspec.Struct, frozen=True, array_like=True):
    revision: Revision
    records: tuple[Record, ...]
    epochs: tuple[Epoch, ...]
    floor: Revision


def config_to_bytes(config: Config) -> bytes:
    """A whole configuration."""
    records = tuple(config.records.values())
    return pack(_StoredConfig(config.revision, records, config.epochs, config.floor))


def config_from_bytes(data: bytes, limit: int = MAX_BULK) -> Config:
    """Inverse of :func:`config_to_bytes`; the records are in the same order."""
    stored = unpack(data, _StoredConfig, limit)
    records = {(r.kind, r.key): r for r in stored.records}
    return Config(stored.revision, records, stored.epochs, stored.floor)


class _Records(msgspec.Struct, frozen=True, array_like=True):
    records: tuple[Record, ...]


def records_to_bytes(records: Iterable[Record]) -> bytes:
    """Some records of a configuration."""
    return pack(_Records(tuple(records)))


def records_from_bytes(data: bytes, limit: int = MAX_BULK) -> tuple[Record, ...]:
    """Inverse of :func:`records_to_bytes`."""
    return unpack(data, _Records, limit).records


# The control API


def encode_request(request: api.Request) -> bytes:
    """One frame to the agent."""
    return pack(request)


def decode_request(data: bytes) -> api.Request:
    """The request in a frame of at most :data:`protocol.api.MAX_FRAME` bytes."""
    request = unpack(data, api.Request, api.MAX_FRAME, lowest=LOWEST)
    if len(request.id) > MAX_ID:
        raise MalformedMessage(f"an id of {len(request.id)} characters; at most {MAX_ID} may be")
    return request


class _Named(msgspec.Struct, frozen=True):
    id: str


def request_id(data: bytes) -> str | None:
    """The id of a request that :func:`decode_request` refused, where one can be read."""
    try:
        found = unpack(data, _Named, api.MAX_FRAME, lowest=LOWEST).id
    except MalformedMessage:
        return None
    return found if len(found) <= MAX_ID else None


def encode_reply(reply: api.Reply) -> bytes:
    """One frame to the client."""
    return pack(reply)


def decode_reply(data: bytes) -> api.Reply:
    """The reply in a frame of at most :data:`protocol.api.MAX_REPLY` bytes."""
    return unpack(data, api.Reply, api.MAX_REPLY, lowest=LOWEST)
