"""The key file of an operator: who he is, and which devices he may trust to be the Site's.

JSON. Whoever has it may command the Site, so it is made for its owner alone
and one that others could read is not used.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from protocol.addresses import check_endpoint
from protocol.errors import InvalidInput

MODE = 0o600
MAX_FILE = 1024 * 1024
FORMAT = 1
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MAKE = "Make one on a device of the Site: `halbctl operator create NAME`."


@dataclass(frozen=True)
class Contact:
    """One device of the Site."""

    name: str
    public_key: str
    addresses: tuple[str, ...]
    """``IP:PORT`` of its peers."""


@dataclass(frozen=True)
class KeyFile:
    """All that it says."""

    site: str
    site_id: str
    operator: str
    public_key: str
    secret_key: str = field(repr=False)
    devices: tuple[Contact, ...]

    def text(self) -> str:
        """As it is stored."""
        return json.dumps({"halb_key": FORMAT, **asdict(self)}, indent=2) + "\n"

    def with_devices(self, contacts: Mapping[str, Any]) -> KeyFile:
        """The same owner and Site with these devices (:class:`protocol.contacts.Contacts`)."""
        if contacts["site_id"] != self.site_id:
            raise InvalidInput(
                f"the device that answered belongs to Site {contacts['site']!r}, the key file to"
                f" another one, {self.site!r}",
                "Name a device of that Site with --agent.",
            )
        return replace(self, site=contacts["site"], devices=contacts_of(contacts["devices"]))


def contacts_of(devices: Iterable[Mapping[str, Any]]) -> tuple[Contact, ...]:
    """Devices from plain data; raises InvalidInput, LookupError or TypeError."""
    return tuple(
        Contact(
            str(device["name"]),
            _key(device["public_key"]),
            tuple(check_endpoint("addresses", str(each)) for each in device["addresses"]),
        )
        for device in devices
    )


def read(path: str) -> KeyFile:
    """The key file at ``path``; raises InvalidInput if it is none, or not its owner's alone."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"key file {path} cannot be read: {why}", _MAKE) from error
    if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
        raise InvalidInput(
            f"key file {path} is open to others (mode {stat.S_IMODE(mode):04o}): it is not used",
            f"Run `chmod 600 {path}`; if others may have read it, remove the operator.",
        )
    return parsed(path, data)


def parsed(path: str, data: bytes) -> KeyFile:
    """What the bytes of a key file say; errors name ``path`` and never repeat a key."""
    try:
        plain: Any = json.loads(data) if len(data) <= MAX_FILE else None
        if plain["halb_key"] != FORMAT:
            raise InvalidInput(
                f"key file {path} is of another release", "Use the halbctl that it was made with."
            )
        found = KeyFile(
            site=str(plain["site"]),
            site_id=str(plain["site_id"]),
            operator=str(plain["operator"]),
            public_key=_key(plain["public_key"]),
            secret_key=_key(plain["secret_key"]),
            devices=contacts_of(plain["devices"]),
        )
    except (ValueError, TypeError, LookupError, RecursionError):
        raise InvalidInput(f"{path} is no key file of an operator", _MAKE) from None
    if not found.devices:
        raise InvalidInput(f"key file {path} names no device", _MAKE)
    return found


def _key(value: object) -> str:
    if not (isinstance(value, str) and _KEY.fullmatch(value)):
        raise ValueError("not a key")
    return value


def create(path: str, key: KeyFile) -> None:
    """Write a new file, whole or not at all; one that is there is never overwritten."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        raise InvalidInput(
            f"{path} exists; a key file is never overwritten", "Choose another with --file FILE."
        ) from None
    try:
        _write(handle, key, path)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(handle)


def rewrite(path: str, key: KeyFile) -> None:
    """Put ``key`` in the place of the file at ``path``, at once and whole."""
    import tempfile

    path = os.path.realpath(path)
    handle, beside = tempfile.mkstemp(prefix=".halb-key-", dir=os.path.dirname(path))
    try:
        _write(handle, key, path)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    finally:
        os.close(handle)


def _write(handle: int, key: KeyFile, path: str) -> None:
    data = key.text().encode("ascii")
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
