"""Documents on the client's side: reading, comparing, and finding one's way in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from halbctl.output import Paint, clean
from halbctl.yaml import dump
from protocol.document import SiteDocument, VirtualServerDocument, parse_site
from protocol.errors import Refused

CONTEXT = 3
"""Unchanged lines shown around a change."""


def plain(document: SiteDocument | VirtualServerDocument) -> dict[str, Any]:
    """A document as plain data, without what is as the default has it."""
    data = msgspec.to_builtins(document)
    assert isinstance(data, dict)
    return data


def virtual_server(document: dict[str, Any], name: str) -> VirtualServerDocument:
    """The Virtual Server of this name in an exported Site; raise Refused without."""
    site = parse_site(document)
    for found in site.virtual_servers:
        if found.name == name:
            return found
    known = ", ".join(vs.name for vs in site.virtual_servers) or "none yet"
    raise Refused(f"no Virtual Server is named {name!r}", f"The Site has: {known}.")


def parse_virtual_server(data: Any) -> VirtualServerDocument:
    """One Virtual Server from plain data."""
    return parse_site({"virtual_servers": [data]}).virtual_servers[0]


def difference(old: Any, new: Any, old_name: str, new_name: str) -> list[str]:
    """Lines of a unified diff between two documents, by what they mean; empty if equal."""
    from difflib import unified_diff

    before, after = dump(old).splitlines(), dump(new).splitlines()
    return list(unified_diff(before, after, old_name, new_name, n=CONTEXT, lineterm=""))


def site_difference(
    old: SiteDocument, new: SiteDocument, old_name: str, new_name: str
) -> list[str]:
    """As :func:`difference`, for Sites: in the order of names, which has no meaning."""
    return difference(_by_name(old, old), _by_name(new, old), old_name, new_name)


def _by_name(document: SiteDocument, default: SiteDocument) -> dict[str, Any]:
    servers = sorted(document.virtual_servers, key=lambda vs: vs.name)
    return {
        "site": document.site or default.site,
        "virtual_servers": [plain(vs) for vs in servers],
    }


def painted(lines: Iterable[str], paint: Paint) -> list[str]:
    """A diff in colour."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return [
        paint(clean(line), "bold" if line[:3] in ("+++", "---") else styles.get(line[:1], ""))
        for line in lines
    ]
