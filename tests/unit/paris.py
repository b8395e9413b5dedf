"""The Site that the tests of documents and changes work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from protocol.changes import Change, edit_for, found_site
from protocol.config import Config, Edit
from protocol.document import parse_site
from protocol.ids import DeviceId
from protocol.objects import Device, Gateway, SiteRecord, Token, VirtualServer
from protocol.token import digest_of

NOW = 1_700_000_000
"""Unix time of all changes."""
SECRET = "0123456789abcdef" * 2
TOKEN = "7" * 16

RDP: dict[str, object] = {
    "name": "rdp",
    "vips": ["10.77.0.100/24"],
    "devices": ["a", "b"],
    "on_peer_loss": "serve",
    "gateways": [
        {"name": "gw1", "address": "10.77.0.31"},
        {"name": "gw2", "address": "10.77.0.32", "weight": 2},
    ],
    "listeners": [{"protocol": "tcp", "port": 443, "check": {"type": "tcp"}}],
}
WEB: dict[str, object] = {
    "name": "web",
    "vips": ["10.77.0.101/24", "fd77::101/64"],
    "listeners": [{"protocol": "tcp", "port": 80}],
}


def counter(config: Config) -> Callable[[], str]:
    """Uids that are counted instead of drawn, other ones at each revision."""
    numbers: Iterator[int] = iter(range(0xFFFF))
    return lambda: f"{next(numbers):08x}{config.revision.n:08x}"


def device(name: str, number: int, *, witness: bool = False, **changes: object) -> Device:
    """A device whose id, key and address come from ``number``."""
    fields: dict[str, object] = {
        "id": DeviceId(f"{number:016x}"),
        "public_key": f"{number:040d}",
        "addresses": (f"10.77.0.{10 + number}:7480",),
        "joined": number,
    }
    return Device(name=name, witness=witness, **{**fields, **changes})  # type: ignore[arg-type]


def edit(config: Config, change: Change, unix_s: int = NOW) -> Edit:
    return edit_for(config, change, unix_s=unix_s, new_uid=counter(config))


def after(config: Config, change: Change, unix_s: int = NOW) -> Config:
    """The configuration once ``change`` is written."""
    made = edit(config, change, unix_s)
    return config.edited(made, config.revision.term) if made != Edit() else config


def token(**changes: object) -> Token:
    """A token of one use and an hour, whose secret is :data:`SECRET`."""
    fields: dict[str, object] = {
        "id": TOKEN,
        "digest": digest_of(SECRET),
        "expires_at": NOW + 3600,
        "uses_left": 1,
    }
    return Token(**{**fields, **changes})  # type: ignore[arg-type]


def _voters(config: Config, *joining: Device) -> SiteRecord:
    assert config.site is not None
    voters = dict.fromkeys((*config.devices, *(d.id for d in joining)))
    return msgspec.structs.replace(config.site, voters=tuple(voters))


def followed(config: Config) -> Config:
    """The voters of the Site have followed its devices, as the coordinator brings it about."""
    return config.edited(Edit(put=(_voters(config),)), 1)


def site(*servers: dict[str, object]) -> Config:
    """Site paris with devices a, b, c, the witness w, and ``servers``."""
    from protocol.changes import ApplyDocument

    config = found_site("paris", "5" * 16, device("a", 1))
    others = (device("b", 2), device("c", 3), device("w", 4, witness=True))
    config = config.edited(Edit(put=(*others, _voters(config, *others))), 1)
    document = parse_site({"virtual_servers": list(servers)})
    return after(config, ApplyDocument(document))


def server(config: Config, name: str = "rdp") -> VirtualServer:
    found = config.virtual_server_named(name)
    assert found is not None
    return found


def gateways(config: Config, name: str = "rdp") -> dict[str, Gateway]:
    """The gateways of a Virtual Server by name."""
    return {g.name: g for g in server(config, name).gateways}
