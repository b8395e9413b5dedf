"""Names and numbers by which things are known.

Ids are random, made once and never reused; names are for people and may
change; addresses are attributes of a device and identify nothing.
"""

from __future__ import annotations

import re
from typing import NewType

import msgspec

from protocol.errors import InvalidInput
from protocol.shown import shown

DeviceId = NewType("DeviceId", str)
"""16 lower-case hex digits, made at the first start of an agent."""

GroupId = NewType("GroupId", str)
"""The uid of a Virtual Server (16 hex digits), or :data:`SITE_GROUP`."""

SITE_GROUP = GroupId("_site")
"""The group that elects the coordinator, which orders all configuration writes."""

OTHER_GROUPS = GroupId("_others")
"""Stands among ballots for all groups of which none is known there."""

ID_PATTERN = r"^[0-9a-f]{16}$"
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_NAME = re.compile(NAME_PATTERN)
_COUNTER = re.compile(r"[0-9]{1,18}")


class Revision(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Version of the Site's configuration: the coordinator's term, then a counter.

    Ordered first by term; ``n`` never decreases along one history.
    """

    term: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.term}.{self.n}"

    @classmethod
    def parse(cls, text: str) -> Revision:
        """Read ``TERM.N`` as printed by :meth:`__str__`; raise InvalidInput otherwise."""
        term, dot, n = text.partition(".")
        if not (dot and _COUNTER.fullmatch(term) and _COUNTER.fullmatch(n)):
            raise InvalidInput(
                f"revision {shown(text)} is not TERM.N", "Take it from `halbctl status`."
            )
        return cls(int(term), int(n))


NO_REVISION = Revision(0, 0)


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it may name a ``kind``; raise InvalidInput otherwise."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{kind} name {shown(name)} is not valid",
            "Use 1 to 63 letters, digits, '.', '_' or '-'; begin and end with a letter or digit.",
        )
    return name
