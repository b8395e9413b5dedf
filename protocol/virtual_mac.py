"""Hardware addresses that VIPs keep, whoever is primary.

Written as six pairs of hex digits. One that nobody chose is derived from the uid of
the Virtual Server, so that all devices have the same one and no two servers share it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

from protocol.errors import InvalidInput, Refused
from protocol.ids import GroupId
from protocol.objects import VirtualServer
from protocol.shown import shown

AUTO = "auto"
"""Stands for the one that the Virtual Server has, or else for :func:`derived`."""
_PREFIX = "ba:1b"
"""Locally administered, of one host. It begins with a letter, so YAML never takes it for a
number."""
_FORM = re.compile(r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}")
_REMEDY = f"Write `{AUTO}`, or an address of one host, such as 02:00:5e:10:00:01."


def check_mac(path: str, text: str) -> str:
    """``auto``, or the address in lower case with colons; raise InvalidInput otherwise."""
    if text == AUTO:
        return text
    if not _FORM.fullmatch(text):
        raise InvalidInput(f"`{path}` is {shown(text)}, which is no hardware address", _REMEDY)
    mac = text.lower().replace("-", ":")
    if int(mac[:2], 16) & 1:
        raise InvalidInput(f"`{path}` is {mac}, an address of a group of hosts", _REMEDY)
    if mac == "00:00:00:00:00:00":
        raise InvalidInput(f"`{path}` is {mac}, the address of nobody", _REMEDY)
    return mac


def derived(uid: GroupId) -> str:
    """The address of a Virtual Server for which nobody chose one."""
    return f"{_PREFIX}:{blake2b(uid.encode(), digest_size=4).digest().hex(':')}"


def wanted_mac(written: str | None, uid: GroupId, present: VirtualServer | None) -> str:
    """What a document asks for, as an address; empty where it asks for none."""
    if written is None:
        return ""
    mac = check_mac("virtual_mac", written)
    if mac != AUTO:
        return mac
    return (present.virtual_mac if present else "") or derived(uid)


def refuse_shared_mac(servers: Iterable[VirtualServer]) -> None:
    """Refuse two Virtual Servers with one address: each may have another primary."""
    owners: dict[str, str] = {}
    for server in servers:
        mac = server.virtual_mac
        if mac and owners.setdefault(mac, server.name) != server.name:
            raise Refused(
                f"Virtual Servers {owners[mac]!r} and {server.name!r} both have the virtual MAC"
                f" {mac}",
                "Give one of them another: each may be on another device.",
            )
