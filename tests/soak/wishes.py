"""What the configuration may be: of every part what was committed last, and what may yet be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Key = tuple[str, ...]
"""(Virtual Server, part) or (Virtual Server, ``gateway``, name, part)."""
Parts = dict[Key, str]
GONE = "gone"
ON_ITS_WAY = {"draining", "disabled"}
"""A gateway that is to be removed is drained first, and that goes on without who asked for it."""


def parts(document: Mapping[str, Any]) -> Parts:
    """The parts of a document that operators of the soak change."""
    found: Parts = {}
    for server in document["virtual_servers"]:
        name = server["name"]
        found[name, "vips"] = " ".join(sorted(server["vips"]))
        found[name, "listeners"] = " ".join(
            sorted(
                f"{each.get('protocol', 'tcp')}/{each['port']}/{each.get('balance', 'hash')}"
                for each in server["listeners"]
            )
        )
        for gateway in server["gateways"]:
            key = (name, "gateway", gateway["name"])
            found[*key, "address"] = gateway["address"]
            found[*key, "weight"] = str(gateway.get("weight", 1))
            found[*key, "state"] = gateway.get("state", "enabled")
    return found


class Wishes:
    """The document that operators believe in, and what each part of it may be."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = copy.deepcopy(document)
        self._committed = parts(document)
        self._perhaps: dict[Key, set[str]] = {}

    def tried(self, wanted: dict[str, Any], *, committed: bool, whole: bool = False) -> None:
        """A change to ``wanted`` was committed, or may be at any time until :meth:`settle`.

        A ``whole`` document says of every part what it is; any other change, of those that differ.
        """
        before, after = parts(self.document), parts(wanted)
        known = self._committed.keys() | self._perhaps.keys() | after.keys()
        for key in known:
            value = after.get(key, GONE)
            if not whole and value == before.get(key, GONE):
                continue
            if committed:
                self._committed[key] = value
            else:
                perhaps = self._perhaps.setdefault(key, set())
                perhaps.add(value)
                if key[-1] == "state" and value == GONE:
                    perhaps |= ON_ITS_WAY
        if committed:
            self.document = copy.deepcopy(wanted)

    def begun(self, wanted: dict[str, Any]) -> None:
        """A change to ``wanted`` was refused; gateways that it removes are perhaps drained."""
        after = parts(wanted)
        for key in self._committed.keys() - after.keys():
            if key[-1] == "state":
                self._perhaps.setdefault(key, set()).update(ON_ITS_WAY)

    def lost(self, found: Mapping[str, Any]) -> list[str]:
        """What ``found``, the Site's document, has that nobody asked for, or lacks."""
        real = parts(found)
        wrong = []
        for key in sorted(real.keys() | self._committed.keys()):
            value = real.get(key, GONE)
            may_be = {self._committed.get(key, GONE)} | self._perhaps.get(key, set())
            if value not in may_be:
                wrong.append(f"{'/'.join(key)} is {value!r}, may be {sorted(may_be)}")
        return wrong

    def settle(self, found: dict[str, Any]) -> None:
        """Everything that was under way has ended, and this is the outcome."""
        self.document = copy.deepcopy(found)
        self._committed, self._perhaps = parts(found), {}
