"""One value of every kind that devices send or keep, made from its type.

Deterministic and small: numbers count up, texts name their field. A union is
represented by each of its members in turn, so that every kind of change and object
is in the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import msgspec.inspect

from protocol.bundle import Frame
from protocol.changes import Change
from protocol.config import Config, Edit
from protocol.messages import Append, ProposeChange
from protocol.objects import Record, Value
from protocol.wire import config_to_bytes, encode


def samples() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every sample, in order of name."""
    found = dict(_samples())
    yield from sorted(found.items())


def _samples() -> Iterator[tuple[str, bytes]]:
    for kind in get_args(Frame):
        yield _tag(kind), encode(_full(kind))
    for change in get_args(Change):
        base: ProposeChange = _full(ProposeChange)
        yield (
            f"propose.{_tag(change)}",
            encode(msgspec.structs.replace(base, change=_full(change))),
        )
    for value in get_args(Value):
        record = Record(_tag(value), "key", _full(Record).revision, _full(value))
        append: Append = _full(Append)
        yield (
            f"append.{_tag(value)}",
            encode(msgspec.structs.replace(append, records=(record,))),
        )
    everything = tuple(_full(value) for value in get_args(Value))
    yield "config", config_to_bytes(Config().edited(Edit(put=everything), 7))


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _full(kind: Any) -> Any:
    return _value(msgspec.inspect.type_info(kind), "value")


def _value(info: msgspec.inspect.Type, name: str) -> Any:
    match info:
        case msgspec.inspect.StructType():
            return info.cls(**{f.name: _value(f.type, f.name) for f in info.fields})
        case msgspec.inspect.UnionType():
            return _value(_most(info.types), name)
        case msgspec.inspect.VarTupleType():
            return (_value(info.item_type, name),)
        case msgspec.inspect.TupleType():
            return tuple(_value(each, name) for each in info.item_types)
        case msgspec.inspect.DictType():
            return {name: _value(info.value_type, name)}
        case msgspec.inspect.LiteralType():
            return info.values[0]
        case msgspec.inspect.EnumType():
            return list(info.cls)[-1]
        case msgspec.inspect.IntType():
            return 1 + sum(name.encode()) % 100
        case msgspec.inspect.FloatType():
            return 1.5
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.BytesType():
            return name.encode()
        case _:
            return name


def _most(types: tuple[msgspec.inspect.Type, ...]) -> msgspec.inspect.Type:
    """Of a union the first member that is more than nothing."""
    return next(t for t in types if not isinstance(t, msgspec.inspect.NoneType))
