"""Bytes to messages and back: what is valid survives, what is not is refused and nothing else."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any, get_args

import msgpack
import msgspec.inspect
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.inspect import type_info

from protocol import api, wire
from protocol.bundle import Frame
from protocol.config import Config, Edit
from protocol.errors import MalformedMessage
from protocol.ids import DeviceId, GroupId, Revision
from protocol.messages import Ack, Beat, Claim, Message
from protocol.objects import Device, Record, SiteRecord, VirtualServer

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


SCALARS: dict[type[msgspec.inspect.Type], st.SearchStrategy[Any]] = {
    msgspec.inspect.FloatType: st.floats(allow_nan=False, allow_infinity=False),
    msgspec.inspect.StrType: st.text(max_size=12),
    msgspec.inspect.BytesType: st.binary(max_size=12),
    msgspec.inspect.BoolType: st.booleans(),
    msgspec.inspect.NoneType: st.none(),
    msgspec.inspect.CustomType: st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=5)),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that the type allows, built from the type itself."""
    info = kind if isinstance(kind, msgspec.inspect.Type) else type_info(kind)
    match info:
        case msgspec.inspect.StructType():
            parts = {f.name: values_of(f.type) for f in info.fields}
            return st.builds(info.cls, **parts)
        case msgspec.inspect.UnionType():
            return st.one_of([values_of(t) for t in info.types])
        case msgspec.inspect.VarTupleType():
            return st.lists(values_of(info.item_type), max_size=3).map(tuple)
        case msgspec.inspect.TupleType():
            return st.tuples(*(values_of(t) for t in info.item_types))
        case msgspec.inspect.DictType():
            return st.dictionaries(values_of(info.key_type), values_of(info.value_type), max_size=2)
        case msgspec.inspect.IntType(ge=least, le=most):
            return st.integers(least or 0, wire.MAX_INTEGER if most is None else most)
        case msgspec.inspect.LiteralType():
            return st.sampled_from(info.values)
        case msgspec.inspect.EnumType():
            return st.sampled_from(info.cls)
    return SCALARS[type(info)]


messages = st.one_of([values_of(kind) for kind in get_args(Frame)])


@QUICK
@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@QUICK
@given(st.lists(values_of(Record), max_size=4))
def test_records_survive(records: list[Record]) -> None:
    assert wire.records_from_bytes(wire.records_to_bytes(records)) == tuple(records)


@QUICK
@given(values_of(api.Request))
def test_requests_survive(request: api.Request) -> None:
    assert wire.decode_request(wire.encode_request(request)) == request


@QUICK
@given(values_of(api.Reply))
def test_replies_survive(reply: api.Reply) -> None:
    assert wire.decode_reply(wire.encode_reply(reply)) == reply


def test_a_configuration_survives_with_its_history() -> None:
    device = Device(
        id=DeviceId("0123456789abcdef"), name="a", public_key="k" * 40, addresses=("::1",), joined=1
    )
    server = VirtualServer(uid=GroupId("f" * 16), name="rdp", vips=("10.0.0.1/24",), seed=7)
    site = SiteRecord(id="5" * 16, name="paris", voters=(device.id,))
    config = Config().edited(Edit(put=(site, device, server)), 3)
    config = config.edited(Edit(delete=(("virtual-server", server.uid),)), 4)
    again = wire.config_from_bytes(wire.config_to_bytes(config))
    assert again == config
    assert again.descends_from(Revision(3, 1))
    assert dataclasses.asdict(again) == dataclasses.asdict(config)


DECODERS = (
    wire.decode,
    wire.decode_request,
    wire.decode_reply,
    wire.config_from_bytes,
    wire.records_from_bytes,
    wire.unpack_header,
)


def raises_nothing_but_malformed(data: bytes) -> None:
    for decoder in DECODERS:
        with suppress(MalformedMessage):
            decoder(data)


@settings(QUICK, max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_cleanly(data: bytes) -> None:
    raises_nothing_but_malformed(data)


@settings(QUICK, max_examples=300)
@given(messages, st.data())
def test_damaged_messages_are_refused_cleanly(message: Message, data: st.DataObject) -> None:
    frame = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    raises_nothing_but_malformed(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    raises_nothing_but_malformed(bytes(frame))


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@QUICK
@given(messages, st.data())
def test_fields_of_other_types_are_refused_cleanly(message: Message, data: st.DataObject) -> None:
    fields = msgspec.to_builtins(message)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(plain)
    raises_nothing_but_malformed(msgpack.packb(fields))


def test_an_id_of_a_request_is_bounded_as_the_configuration_remembers_it() -> None:
    """Twice in each copy of the configuration: one of 4 MB made that too large to be sent."""
    for size in (0, 1, wire.MAX_ID):
        request = api.Request(api.API_VERSION, "x" * size, api.GetVersion())
        assert wire.decode_request(wire.encode_request(request)) == request
    long = api.Request(api.API_VERSION, "x" * (wire.MAX_ID + 1), api.GetVersion())
    with pytest.raises(MalformedMessage, match="an id of 65 characters; at most 64 may be"):
        wire.decode_request(wire.encode_request(long))


def test_deep_nesting_is_refused() -> None:
    for depth in (100, 900, 5000):
        for open_, close in ((b"\x91", b"\xc0"), (b"\x81\xa1t", b"\xc0")):
            with pytest.raises(MalformedMessage):
                wire.decode(open_ * depth + close)


def test_sizes_are_bounded() -> None:
    with pytest.raises(MalformedMessage, match="at most 10 are allowed"):
        wire.decode(b"\x00" * 11, 10)
    with pytest.raises(MalformedMessage):
        wire.decode(b"\xdd\xff\xff\xff\xff", 100)  # a list of 2^32 - 1 items


@pytest.mark.parametrize(
    "field",
    [{"echo": -1}, {"echo": 2**63}, {"echo": True}, {"echo": "1"}, {"echo": 1.0}, {"refused": 3}],
)
def test_wrong_numbers_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode(msgpack.packb({"t": "ack", "echo": 1, "epoch": 1, **field}))


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(MalformedMessage, match="'surprise'"):
        wire.decode(msgpack.packb({"t": "surprise"}))


def test_unknown_fields_of_a_newer_release_are_ignored() -> None:
    body = msgpack.packb({"t": "ack", "echo": 1, "epoch": 2, "mood": "good"})
    assert wire.decode(body) == Ack(1, 2)


def test_extension_types_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        wire.decode(msgpack.packb(msgpack.ExtType(5, b"code")))
    exported = wire.encode_reply(api.Reply(1, "r1", api.Exported({"site": "paris"}, "1.1")))
    foreign = exported.replace(msgpack.packb("paris"), msgpack.packb(msgpack.ExtType(5, b"x")))
    with pytest.raises(MalformedMessage):
        wire.decode_reply(foreign)


def test_a_beat_of_all_virtual_servers_fits_its_channel() -> None:
    claims = tuple(Claim(GroupId(f"{i:016x}"), 2**40, 2**16, 10**9) for i in range(1001))
    beat = Beat(sent=2**60, interval=10**9, epoch=2**32, claims=claims)
    assert len(wire.encode(beat)) < wire.MAX_URGENT - wire.HEADER_SIZE


def test_a_header_survives_and_foreign_ones_are_refused() -> None:
    frame = wire.pack_header(wire.site_bytes("00112233445566ff"), 7, 9) + b"body"
    header = wire.unpack_header(frame)
    assert (header.site.hex(), header.incarnation, header.sequence) == ("00112233445566ff", 7, 9)
    with pytest.raises(MalformedMessage, match="magic"):
        wire.unpack_header(b"X" + frame[1:])
    with pytest.raises(MalformedMessage, match="no header"):
        wire.unpack_header(frame[: wire.HEADER_SIZE - 1])
