"""Certificates for tests, of any dates and names: RSA and DER in a few lines."""

from __future__ import annotations

import base64
import hashlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random

_E = 65537
_RSA, _SHA256_RSA, _SHA256 = (
    bytes.fromhex(oid) for oid in ("2a864886f70d010101", "2a864886f70d01010b", "608648016503040201")
)
_COMMON_NAME, _ALTERNATIVE_NAMES, _CONSTRAINTS = (
    bytes.fromhex(oid) for oid in ("550403", "551d11", "551d13")
)


@dataclass(frozen=True)
class Key:
    """An RSA key: prime factors and private exponent."""

    p: int
    q: int

    @property
    def n(self) -> int:
        return self.p * self.q

    @property
    def d(self) -> int:
        return pow(_E, -1, (self.p - 1) * (self.q - 1))

    def sign(self, data: bytes) -> bytes:
        """PKCS #1 v1.5 with SHA-256 (RFC 8017, 8.2)."""
        digest = _sequence(
            _sequence(_oid(_SHA256), _tag(5, b"")), _tag(4, hashlib.sha256(data).digest())
        )
        size = (self.n.bit_length() + 7) // 8
        padded = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
        return pow(int.from_bytes(padded, "big"), self.d, self.n).to_bytes(size, "big")


@cache
def key(seed: int = 1) -> Key:
    """A key of 2048 bits, the same for the same seed; takes 0.1 s."""
    random = Random(seed)
    return Key(_prime(random), _prime(random))


def _prime(random: Random) -> int:
    while True:
        n = random.getrandbits(1024) | 3 << 1022 | 1
        small = all(n % q for q in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37))
        if small and all(pow(b, n - 1, n) == 1 for b in (2, 3, 5)) and (n - 1) % _E:
            return n


def _tag(kind: int, content: bytes) -> bytes:
    if len(content) < 128:
        return bytes([kind, len(content)]) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([kind, 0x80 | len(size)]) + size + content


def _sequence(*parts: bytes) -> bytes:
    return _tag(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tag(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(body: bytes) -> bytes:
    return _tag(6, body)


def _time(at: datetime) -> bytes:
    if at.year < 2050:
        return _tag(0x17, at.strftime("%y%m%d%H%M%SZ").encode())
    return _tag(0x18, at.strftime("%Y%m%d%H%M%SZ").encode())


def _name(text: str) -> bytes:
    pair = _sequence(_oid(_COMMON_NAME), _tag(0x0C, text.encode()))
    return _sequence(_tag(0x31, pair))


def _extension(oid: bytes, value: bytes) -> bytes:
    return _sequence(_oid(oid), _tag(4, value))


def certificate(name: str, days: float, *, issuer: str = "", signer: Key | None = None) -> bytes:
    """DER of a certificate for ``name`` with ``days`` left; self-signed without a ``signer``."""
    own, algorithm = key(), _sequence(_oid(_SHA256_RSA), _tag(5, b""))
    end = datetime.now(UTC) + timedelta(days=days)
    public = _sequence(_integer(own.n), _integer(_E))
    body = _sequence(
        _tag(0xA0, _integer(2)),
        _integer(1),
        algorithm,
        _name(issuer or name),
        _sequence(_time(end - timedelta(days=4000)), _time(end)),
        _name(name),
        _sequence(_sequence(_oid(_RSA), _tag(5, b"")), _tag(3, b"\0" + public)),
        _tag(
            0xA3,
            _sequence(
                _extension(_ALTERNATIVE_NAMES, _sequence(_tag(0x82, name.encode()))),
                _extension(_CONSTRAINTS, _sequence(_tag(1, b"\xff"))),
            ),
        ),
    )
    signature = (signer or own).sign(body)
    return _sequence(body, algorithm, _tag(3, b"\0" + signature))


def _pem(kind: str, der: bytes) -> str:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"


def server_context(folder: Path, name: str, days: float) -> tuple[ssl.SSLContext, Path]:
    """Settings of a server with such a certificate, and the file that holds it."""
    own = key()
    exponents = (own.d % (own.p - 1), own.d % (own.q - 1), pow(own.q, -1, own.p))
    numbers = (0, own.n, _E, own.d, own.p, own.q, *exponents)
    path = folder / "server.pem"
    shown = _pem("CERTIFICATE", certificate(name, days))
    path.write_text(
        _pem("RSA PRIVATE KEY", _sequence(*map(_integer, numbers))) + shown, encoding="ascii"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    public = folder / "authority.pem"
    public.write_text(shown, encoding="ascii")
    return context, public


def with_own_groups(context: ssl.SSLContext, folder: Path, bits: int) -> None:
    """Have a server offer nothing but Diffie-Hellman, modulo an odd number of so many bits."""
    path = folder / "group.pem"
    group = _sequence(_integer(Random(bits).getrandbits(bits) | 1 << (bits - 1) | 1), _integer(2))
    path.write_text(_pem("DH PARAMETERS", group), encoding="ascii")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("kDHE:@SECLEVEL=0")
    context.load_dh_params(str(path))
