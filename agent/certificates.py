"""What a check wants of a gateway's certificate: verified, and valid for some time yet.

Authorities are the host's own (``ssl.get_default_verify_paths``). Loading them
takes tens of milliseconds, so that is done in a worker, and again each hour.

Handshakes take place in the loop, so what one may cost is not for a gateway to say: groups for
Diffie-Hellman of its own making (``kDHE``, TLS 1.2 and older) may have 10,000 bits, and took 0.9 s,
longer than a lease lives. Who has nothing else to offer does not pass.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta

RELOAD_S = 3600.0
"""Authorities that were added or removed are known after so long."""
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


class Contexts:
    """TLS settings for checks with and without verification."""

    def __init__(self) -> None:
        self._made: dict[bool, tuple[float, ssl.SSLContext]] = {}
        self._making = asyncio.Lock()

    async def context(self, *, verify: bool) -> ssl.SSLContext:
        """A context that is at most :data:`RELOAD_S` old."""
        async with self._making:
            at, context = self._made.get(verify, (0.0, None))
            if context is None or time.monotonic() - at > RELOAD_S:
                context = await asyncio.to_thread(strict if verify else lenient)
                self._made[verify] = (time.monotonic(), context)
            return context


def strict() -> ssl.SSLContext:
    """Only what the host's authorities vouch for, and by its right name."""
    context = ssl.create_default_context()
    usual = (each["name"] for each in context.get_ciphers() if each["kea"] != "kx-dhe")
    context.set_ciphers(":".join(usual))
    return context


def lenient() -> ssl.SSLContext:
    """Any certificate, any TLS version: whether that is secure is for its clients to say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:!kDHE:@SECLEVEL=0")
    return context


def expiry_fault(der: bytes, days: float, now: datetime) -> str:
    """What is wrong with the end of a certificate's life if ``days`` must be left; or empty."""
    end = not_after(der)
    if end is None:
        return "certificate without a date that can be read"
    left = (end - now) / timedelta(days=1)
    if left < 0:
        return f"certificate expired on {end:%Y-%m-%d %H:%M} UTC"
    if left < days:
        return (
            f"certificate expires on {end:%Y-%m-%d %H:%M} UTC,"
            f" in {left:.1f} days, and {days:g} are wanted"
        )
    return ""


def not_after(der: bytes) -> datetime | None:
    """The end of an X.509 certificate's validity (RFC 5280, 4.1); None if it has none."""
    try:
        certificate, _ = _element(der, _SEQUENCE)
        body, _ = _element(certificate, _SEQUENCE)
        if body[:1] == bytes([_VERSION]):
            _, body = _element(body, _VERSION)
        for _ in range(3):  # serial number, signature, issuer
            _, body = _element(body)
        validity, _ = _element(body, _SEQUENCE)
        _, rest = _element(validity)
        kind = rest[0]
        text, _ = _element(rest)
        if kind == _UTC_TIME:
            # Two digits of the year: 50 and more are of the last century.
            text = (b"19" if text[:2] >= b"50" else b"20") + text
        elif kind != _GENERALIZED_TIME:
            return None
        return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return None


def _element(data: bytes, kind: int | None = None) -> tuple[bytes, bytes]:
    """The content of the first DER element, and what follows it."""
    if kind is not None and data[0] != kind:
        raise ValueError(f"element of kind {data[0]:#x} in place of {kind:#x}")
    size, at = data[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(data[2:at], "big")
    if at + size > len(data):
        raise ValueError("element is longer than its surroundings")
    return data[at : at + size], data[at + size :]
