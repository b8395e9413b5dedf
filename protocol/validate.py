"""Rules for single values, shared by documents, changes and tokens.

Each function takes the path of the value for the error, returns nothing or
the canonical form, and raises InvalidInput with the value and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sized

from protocol.addresses import check_endpoint, endpoints_clash
from protocol.errors import InvalidInput
from protocol.ids import ID_PATTERN, check_name
from protocol.objects import MAX_WEIGHT, Check, Device
from protocol.shown import shown

MAX_ADDRESSES = 2
"""Addresses of one device: two connections lead to each peer."""
MAX_TOKENS = 1000
"""Join tokens that are valid at one time."""
MAX_TOKEN_USES = 1000

_ID = re.compile(ID_PATTERN)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_Z85_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


def check_range(path: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Also refuses NaN, which is within no range."""
    if not low <= value <= high:
        unit = f" {unit}" if unit else ""
        raise InvalidInput(f"`{path}` is {shown(value)}", f"Use {low} to {high}{unit}.")


def check_port(path: str, value: int) -> None:
    """A TCP or UDP port, 1 to 65535."""
    if not 1 <= value <= 65535:
        raise InvalidInput(f"`{path}` is {shown(value)}, which is no port", "Use 1 to 65535.")


_NO_DEVICE = {"all": "--device all", "no": "--witness no"}


def check_weight(path: str, value: int) -> None:
    """Weight of a gateway; 0 takes no new flows."""
    check_range(path, value, 0, MAX_WEIGHT)


def check_named(path: str, kind: str, name: str) -> None:
    """A name of a ``kind`` of thing, with the path in the error."""
    try:
        check_name(kind, name)
    except InvalidInput as error:
        raise InvalidInput(f"`{path}`: {error.message}", error.remedy) from None


def check_count(path: str, values: Sized, most: int, least: int = 0) -> None:
    """Refuse a list that is too long or too short; ``path`` is the list's."""
    if not least <= len(values) <= most:
        raise InvalidInput(f"`{path}` has {len(values)} entries", f"Use {least} to {most}.")


def check_once(path: str, values: Iterable[Hashable], what: str) -> None:
    """Refuse a value that a list has twice; ``path`` is the list's."""
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            raise InvalidInput(
                f"`{path}[{index}]` names {what} {shown(value)} a second time", "Name it once."
            )
        seen.add(value)


def check_pace(path: str, check: Check) -> None:
    """The durations, counts and port of a health check."""
    check_range(f"{path}.interval", check.interval, 0.1, 3600, "seconds")
    check_range(f"{path}.timeout", check.timeout, 0.05, 3600, "seconds")
    check_range(f"{path}.fall", check.fall, 1, 100)
    check_range(f"{path}.rise", check.rise, 1, 100)
    if check.port is not None:
        check_port(f"{path}.port", check.port)


def check_id(what: str, value: str) -> None:
    """16 lower-case hex digits, as ids of Sites, devices and tokens are."""
    if not _ID.fullmatch(value):
        raise InvalidInput(f"{what} {shown(value)} is not 16 hex digits", "Use the id as made.")


def check_digest(value: str) -> None:
    """Digest of a join token's secret: SHA-256, 64 hex digits."""
    if not _DIGEST.fullmatch(value):
        raise InvalidInput(f"token digest {shown(value)} is not SHA-256 in hex", "Use 64 digits.")


def check_public_key(what: str, key: str) -> None:
    """CURVE public key of ``what`` in Z85. The key is not repeated in the error."""
    if not _Z85_KEY.fullmatch(key):
        raise InvalidInput(
            f"public key of {what} is not 40 characters of Z85", "Use the key as the agent made it."
        )


def check_device_name(name: str) -> None:
    """A name of a device: none of the words that stand for something where devices are listed."""
    check_name("device", name)
    if name in _NO_DEVICE:
        raise InvalidInput(
            f"no device can be named {name!r}: `{_NO_DEVICE[name]}` means something else",
            "Use another name, in `--name` of its agent or with `halbctl device rename`.",
        )


def check_device(device: Device) -> Device:
    """A device as it presents itself, with its addresses in canonical form."""
    check_id("device id", device.id)
    check_device_name(device.name)
    check_public_key(f"device {device.name!r}", device.public_key)
    if not 1 <= len(device.addresses) <= MAX_ADDRESSES:
        raise InvalidInput(
            f"device {device.name!r} has {len(device.addresses)} addresses",
            f"Start its agent with 1 to {MAX_ADDRESSES} `--address IP:PORT`.",
        )
    found = tuple(check_endpoint(f"address of {device.name}", a) for a in device.addresses)
    for index, one in enumerate(found):
        for other in found[:index]:
            if endpoints_clash(one, other):
                raise InvalidInput(
                    f"addresses {other} and {one} of device {device.name!r} overlap",
                    "Leave four ports between two addresses of one IP.",
                )
    return Device(
        id=device.id,
        name=device.name,
        public_key=device.public_key,
        addresses=found,
        joined=device.joined,
        witness=device.witness,
        drained=device.drained,
    )
