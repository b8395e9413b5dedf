"""The key pair that proves who a device is (CURVE: Curve25519)."""

from __future__ import annotations

import string
from dataclasses import dataclass, field

from protocol.errors import InvalidInput

Z85 = frozenset(string.digits + string.ascii_letters + ".-:+=^!/*?&<>()[]{}@%$#")
KEY_LENGTH = 40
"""Characters of a key in Z85 (ZeroMQ RFC 32)."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves in Z85. The secret half never leaves the device and is never printed."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, key in (("public", self.public), ("secret", self.secret)):
            if not is_key(key):
                raise InvalidInput(f"the {name} key is not {KEY_LENGTH} characters of Z85")


def is_key(text: str) -> bool:
    """Whether ``text`` has the form of a key."""
    return len(text) == KEY_LENGTH and Z85.issuperset(text)
