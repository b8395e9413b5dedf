"""Contents of maps and sets as data: what their keys lead to, by name and by key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

Contents = Mapping[str, Mapping[str, str]]
"""By name of the map or set."""
ELEMENTS_AT_ONCE = 4096
"""Elements of one transaction where many are added: the kernel takes some 10 ms."""


def united(some: Iterable[Contents]) -> dict[str, dict[str, str]]:
    """All together; of two for one key the later one counts."""
    found: dict[str, dict[str, str]] = {}
    for maps in some:
        for name, content in maps.items():
            found.setdefault(name, {}).update(content)
    return found


def additions(had: Contents, wanted: Contents, names: Iterable[str]) -> Iterator[Contents]:
    """``had`` with more and more of the elements that are ``wanted`` of maps with these ``names``,
    and whose keys are new: :data:`ELEMENTS_AT_ONCE` more each time."""
    now = had
    for name in names:
        there = had.get(name, {})
        more = iter([(key, to) for key, to in wanted.get(name, {}).items() if key not in there])
        while some := dict(islice(more, ELEMENTS_AT_ONCE)):
            now = {**now, name: {**now.get(name, {}), **some}}
            yield now
