"""Which devices say to be primary of what, kept as they say it.

In a Site of many devices and Virtual Servers nobody can look through all that
every device says each time that one of them says something new.
"""

from __future__ import annotations

from collections.abc import Container

from protocol.ids import DeviceId, GroupId
from protocol.messages import Info, Lead


class Claimants:
    """What devices tell of their offices, by group."""

    def __init__(self) -> None:
        self._of: dict[GroupId, dict[DeviceId, Lead]] = {}
        self._terms: dict[GroupId, int] = {}
        """The newest one that anybody told of, also of an office that is over."""

    def change(self, device: DeviceId, before: Info | None, after: Info | None) -> None:
        """``device`` told ``before``, and tells ``after`` in its place."""
        for lead in _offices(before):
            claims = self._of.get(lead.group, {})
            claims.pop(device, None)
            if not claims:
                self._of.pop(lead.group, None)
        for lead in _offices(after):
            self._of.setdefault(lead.group, {})[device] = lead
            self._terms[lead.group] = max(lead.term, self.term(lead.group))

    def newest(self, group: GroupId) -> tuple[DeviceId, Lead] | None:
        """Who says to be primary of ``group`` in the newest term."""
        claims = self._of.get(group)
        return None if claims is None else max(claims.items(), key=lambda each: each[1].term)

    def term(self, group: GroupId) -> int:
        """The newest term of ``group`` that any device told of; 0 if none did."""
        return self._terms.get(group, 0)

    def keep(self, groups: Container[GroupId]) -> None:
        """Forget the terms of groups that are gone."""
        self._terms = {group: term for group, term in self._terms.items() if group in groups}


def _offices(info: Info | None) -> tuple[Lead, ...]:
    return () if info is None or info.stopping else info.leads
