"""Documents on the client's side: finding one's way in them, and comparing them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from halbctl.output import Paint, clean
from halbctl.yaml import dump
from protocol.document import SiteDocument, VirtualServerDocument, parse_virtual_server
from protocol.durations import utc
from protocol.errors import InvalidInput
from protocol.nearest import nearest
from protocol.rendering import canonical, render_virtual_server

CONTEXT = 3
"""Unchanged lines shown around a change."""
_DEADLINE = re.compile(r"\bdrain_until: ([0-9]+)")


def virtual_server(document: dict[str, Any], name: str) -> VirtualServerDocument:
    """The Virtual Server of this name in an exported Site; raise InvalidInput without."""
    servers = {vs["name"]: vs for vs in document["virtual_servers"]}
    if name not in servers:
        raise InvalidInput(f"no Virtual Server is named {name!r}", nearest(name, servers))
    return parse_virtual_server(servers[name])


def difference(old: Any, new: Any, old_name: str, new_name: str) -> list[str]:
    """Lines of a unified diff between two documents; empty if they mean the same."""
    from difflib import unified_diff

    before, after = dump(old).splitlines(), dump(new).splitlines()
    lines = unified_diff(before, after, old_name, new_name, n=CONTEXT, lineterm="")
    return list(map(_dated, lines))


def _dated(line: str) -> str:
    """``line`` with the deadline of a drain as a time, in a comment behind it."""
    found = _DEADLINE.search(line)
    return f"{line}  # {utc(int(found[1]))}" if found else line


def site_difference(
    old: SiteDocument, new: SiteDocument, old_name: str, new_name: str
) -> list[str]:
    """As :func:`difference`, for Sites: by name and in one spelling, for these mean nothing."""
    present = {vs.name: vs for vs in old.virtual_servers}
    wanted = [canonical(vs, present.get(vs.name)) for vs in new.virtual_servers]
    before, after = _by_name(present.values(), old.site), _by_name(wanted, new.site or old.site)
    return difference(before, after, old_name, new_name)


def _by_name(servers: Iterable[VirtualServerDocument], site: str | None) -> dict[str, Any]:
    ordered = sorted(servers, key=lambda vs: vs.name)
    return {"site": site, "virtual_servers": [render_virtual_server(vs) for vs in ordered]}


def painted(lines: Iterable[str], paint: Paint) -> list[str]:
    """A diff in colour."""
    styles = {"+": "green", "-": "red", "~": "yellow", "@": "cyan"}
    return [
        paint(clean(line), "bold" if line[:3] in ("+++", "---") else styles.get(line[:1], ""))
        for line in lines
    ]
