"""From plain data (of YAML or JSON) to a typed struct, with errors for people.

``msgspec.convert`` does the work; this adds what an operator needs: the path
in the document, the value, what was expected, the nearest known key, and a
word on what belongs to the format but not to this release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import msgspec

from protocol.errors import InvalidInput
from protocol.nearest import nearest
from protocol.shown import shown

T = TypeVar("T", bound=msgspec.Struct)

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_LONGEST_KEY = 64
"""Characters of a key that is shown as it is."""
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


@dataclass(frozen=True)
class Format:
    """What :func:`read` knows of a document beyond its types."""

    longest: Mapping[str, int] = field(default_factory=dict)
    """Most items of the list under a key; checked before anything is built of it."""
    later_keys: Mapping[str, str] = field(default_factory=dict)
    """Keys that this release does not support yet, with the remedy."""
    later_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By key, values that this release does not support yet."""


def read(data: object, kind: type[T], form: Format, where: str = "") -> T:
    """``data`` as a ``kind``; ``where`` is its path within the whole document.

    Raises InvalidInput.
    """
    _check_keys(data, kind, form, where)
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as error:
        _explain(str(error), data, kind, form, where)


def _check_keys(data: object, kind: Any, form: Format, path: str) -> None:
    """Refuse unknown keys and overlong lists, in the order of the document."""
    if kind is None or not isinstance(data, Mapping):
        return
    fields = _fields(kind)
    for key, value in data.items():
        here = _join(path, _key(key))
        if key not in fields:
            _refuse_key(key, here, list(fields), form)
        part, listed = _struct_in(fields[key]), get_origin(fields[key]) is tuple
        if not listed:
            _check_keys(value, part, form, here)
        elif isinstance(value, list | tuple):
            longest = form.longest.get(key)
            if longest is not None and len(value) > longest:
                raise InvalidInput(
                    f"`{here}` has {len(value)} entries", f"At most {longest} are allowed."
                )
            for index, item in enumerate(value if part else ()):
                _check_keys(item, part, form, f"{here}[{index}]")


def _key(key: object) -> str:
    return key if isinstance(key, str) and len(key) <= _LONGEST_KEY else shown(key)


def _refuse_key(key: object, here: str, known: list[str], form: Format) -> NoReturn:
    if isinstance(key, str) and key in form.later_keys:
        raise InvalidInput(f"`{here}` is not supported in this release", form.later_keys[key])
    raise InvalidInput(f"`{here}` is not a known key", nearest(_key(key), known))


def _explain(problem: str, data: object, kind: Any, form: Format, where: str) -> NoReturn:
    what, _, place = problem.partition(" - at `$")
    steps = [name or int(index) for name, index in _STEP.findall(place.rstrip("`"))]
    path, value, expected = where, data, kind
    for step in steps:
        path, value, expected = _descend(path, value, expected, step)
    if missing := re.fullmatch(r"Object missing required field `(.+)`", what):
        raise InvalidInput(f"`{_join(path, missing[1])}` is missing", "Add it.")
    subject = f"{f'`{path}`' if path else 'the document'} is {shown(value)}"
    if what.startswith("Invalid enum value"):
        key = str(steps[-1])
        later = value in form.later_values.get(key, ())
        why = "which this release does not support" if later else "which is not known"
        raise InvalidInput(f"{subject}, {why}", _one_of(str(value), list(_choices(expected))))
    if mismatch := re.fullmatch(r"Expected `(.+)`, got `(.+)`", what):
        wanted = [_WORDS.get(w, w) for w in mismatch[1].split(" | ") if w != "null"]
        remedy = f"Write {' or '.join(wanted)} there"
        if mismatch[1].startswith("str") and not isinstance(value, list | dict | None):
            remedy += ", in quotes"
        raise InvalidInput(f"{subject}, not {' or '.join(wanted)}", f"{remedy}.")
    raise InvalidInput(f"{subject}: {what}", "Correct it.")


def _one_of(value: str, choices: list[str]) -> str:
    return f"Use {choices[0]!r}." if len(choices) == 1 else nearest(value, choices)


def _descend(path: str, value: Any, kind: Any, step: str | int) -> tuple[str, Any, Any]:
    if isinstance(step, int):
        return f"{path}[{step}]", value[step], kind
    return _join(path, step), value[step], _fields(_struct_in(kind))[step]


@lru_cache(maxsize=64)
def _fields(kind: Any) -> dict[str, Any]:
    """Types of a struct's fields, by key."""
    return {f.encode_name: f.type for f in msgspec.structs.fields(kind)}


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _parts(kind: Any) -> Iterator[Any]:
    """``kind`` and all types within it, such as X of ``tuple[X, ...] | None``."""
    yield kind
    if get_origin(kind) is not Literal:
        for part in get_args(kind):
            yield from _parts(part)


@lru_cache(maxsize=64)
def _struct_in(kind: Any) -> Any:
    """The struct type within ``kind``, or None."""
    found = (p for p in _parts(kind) if isinstance(p, type) and issubclass(p, msgspec.Struct))
    return next(found, None)


def _choices(kind: Any) -> Iterator[str]:
    for part in _parts(kind):
        if get_origin(part) is Literal:
            yield from (str(arg) for arg in get_args(part))
        elif isinstance(part, type) and issubclass(part, Enum):
            yield from (str(member.value) for member in part)
