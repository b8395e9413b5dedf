"""The join token: how a new device finds a Site, trusts it, and is let in.

``halb1-`` and base64url of msgpack and a checksum. The checksum tells a
truncated copy from a wrong token; it protects nothing. The member's public
keys in it authenticate the Site to the newcomer, the secret the newcomer to
the Site.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

import msgpack
import msgspec

from protocol.addresses import check_endpoint
from protocol.errors import HalbError, InvalidInput
from protocol.ids import check_name
from protocol.validate import MAX_ADDRESSES, check_id, check_public_key

PREFIX = "halb1-"
MAX_CHARS = 4096
"""Longest token that is looked at."""
MAX_MEMBERS = 7
"""Members that a token names; one that answers is enough."""
MAX_ARRAY = 16
"""Longest list in a token: what one claims to hold is made room for, however short it is."""
_SECRET = re.compile(r"[0-9a-f]{32}")
_CHECKSUM_BYTES = 4

Member = tuple[str, tuple[str, ...]]
"""Public key (Z85) and addresses (``IP:PORT``) of a device to ask."""


class JoinToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a new device needs to join. Whoever has it may join: it is a secret."""

    site: str
    """Id of the Site, 16 hex digits."""
    site_name: str
    id: str
    """Id of the token, 16 hex digits; no secret."""
    secret: str
    """128 random bits, 32 hex digits."""
    members: tuple[Member, ...]
    expires_at: int
    """Unix time, seconds."""

    def encode(self) -> str:
        """The token as text; only the first :data:`MAX_MEMBERS` members are carried."""
        token = msgspec.structs.replace(self, members=self.members[:MAX_MEMBERS])
        packed: bytes = msgpack.packb(msgspec.to_builtins(token))
        text = base64.urlsafe_b64encode(packed + _checksum(packed)).decode("ascii")
        return PREFIX + text.rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Read what :meth:`encode` wrote; white space, as of a wrapped line, is ignored.

        Raises InvalidInput. No error repeats the token.
        """
        bare = "".join(text[: 2 * MAX_CHARS].split())
        if len(text) > 2 * MAX_CHARS or len(bare) > MAX_CHARS:
            raise InvalidInput(
                f"this is no join token: it is longer than {MAX_CHARS} characters", _WHENCE
            )
        if not bare.startswith(PREFIX):
            if re.match(r"halb\d+-", bare):
                raise InvalidInput(
                    f"the join token {bare.partition('-')[0]}-... is of another release",
                    "Install the Site's release of halb-agent on this host.",
                )
            raise InvalidInput("this is no join token", _WHENCE)
        try:
            return _checked(msgspec.convert(_unpacked(bare.removeprefix(PREFIX)), cls))
        except (msgspec.ValidationError, HalbError) as error:
            raise InvalidInput(
                f"the join token is garbled: {str(error).partition(chr(10))[0]}", _AGAIN
            ) from None


_WHENCE = "A token begins with halb1-; `halbctl token create` on a device of the Site makes one."
_AGAIN = "Copy it again, the whole of it, or make a new one with `halbctl token create`."


def digest_of(secret: str) -> str:
    """What the Site keeps of a token's secret: SHA-256, 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def shows_secret(secret: str, digest: str) -> bool:
    """Whether ``secret`` has this digest, compared in constant time."""
    return hmac.compare_digest(digest_of(secret), digest)


def _checksum(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:_CHECKSUM_BYTES]


def _unpacked(text: str) -> object:
    """The token's data; InvalidInput says what is wrong, without a remedy."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise InvalidInput("characters are missing or do not belong to it") from None
    if base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") != text:
        # The last character has bits that no byte uses.
        raise InvalidInput("its last character is not the one it was made with")
    packed, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(data) <= _CHECKSUM_BYTES or _checksum(packed) != checksum:
        raise InvalidInput("its checksum does not match, so characters are missing or changed")
    try:
        return msgpack.unpackb(packed, max_array_len=MAX_ARRAY)
    except (ValueError, msgpack.UnpackException):
        raise InvalidInput("it was not made by halbctl") from None


def _checked(token: JoinToken) -> JoinToken:
    check_id("Site id", token.site)
    check_name("Site", token.site_name)
    check_id("token id", token.id)
    if not _SECRET.fullmatch(token.secret):
        raise InvalidInput("its secret is not 32 hex digits")
    if not 1 <= len(token.members) <= MAX_MEMBERS:
        raise InvalidInput(f"it names {len(token.members)} members, not 1 to {MAX_MEMBERS}")
    for key, addresses in token.members:
        check_public_key("a member", key)
        if not 1 <= len(addresses) <= MAX_ADDRESSES:
            raise InvalidInput(f"a member has {len(addresses)} addresses")
        for address in addresses:
            check_endpoint("address of a member", address)
    if not 0 <= token.expires_at < 2**53:
        raise InvalidInput("its time of expiry is out of range")
    return token
