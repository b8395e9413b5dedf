"""Whom an operator's key file names, and which operators there are: asked of any device."""

from __future__ import annotations

import msgspec

from protocol.config import Config


class GetOperators(msgspec.Struct, frozen=True, tag_field="op", tag="operator-list"):
    """Answered by :class:`Operators`."""


class OperatorInfo(msgspec.Struct, frozen=True):
    """One operator."""

    name: str
    public_key: str
    """CURVE, Z85."""
    created_at: int
    """Unix time, seconds."""
    by: str = ""
    """Operator who let him in; empty: somebody on a device."""


class Operators(msgspec.Struct, frozen=True, tag_field="re", tag="operators"):
    """Those whose keys every device accepts, by name."""

    operators: tuple[OperatorInfo, ...]


class GetContacts(msgspec.Struct, frozen=True, tag_field="op", tag="contacts"):
    """Answered by :class:`Contacts`."""


class Contact(msgspec.Struct, frozen=True):
    """One device that an operator may connect to."""

    name: str
    public_key: str
    """CURVE, Z85: who answers with another one is somebody else."""
    addresses: tuple[str, ...]
    """``IP:PORT`` of its peers; operators connect to PORT + :data:`protocol.control.OPERATORS`."""


class Contacts(msgspec.Struct, frozen=True, tag_field="re", tag="contacts"):
    """What a key file is made of, apart from the keys of its owner."""

    site_id: str
    """16 hex digits."""
    site: str
    devices: tuple[Contact, ...]
    """In order of joining."""


def operators_of(config: Config) -> Operators:
    """The operators of a Site."""
    return Operators(
        tuple(
            OperatorInfo(each.name, each.public_key, each.created_at, each.by)
            for each in config.operators.values()
        )
    )


def contacts_of(config: Config) -> Contacts:
    """The devices of a Site, with what it takes to know them again."""
    assert config.site is not None
    devices = tuple(Contact(d.name, d.public_key, d.addresses) for d in config.devices.values())
    return Contacts(config.site.id, config.site.name, devices)
