"""What a health check says beside its pace: rules for it, and what its words mean."""

from __future__ import annotations

import re
from collections.abc import Iterator

from protocol.errors import InvalidInput
from protocol.objects import Check, Listener
from protocol.ports import HIGHEST
from protocol.shown import shown
from protocol.validate import check_pace

HEX = "hex:"
"""Before bytes that are written as hex digits."""
MAX_WORDS = 16
"""A command and its arguments."""
MAX_WORD = 256
MAX_TEXT = 1024
"""Of path, body, payload and reply: characters as written."""
MAX_DAYS = 3650

OF_TYPE: dict[str, tuple[str, ...]] = {
    "tcp": (),
    "tls": ("name", "verify", "expires_within"),
    "http": ("name", "path", "status", "body"),
    "https": ("name", "path", "status", "body", "verify", "expires_within"),
    "udp": ("payload", "reply"),
    "exec": ("command",),
    "none": (),
}
"""Fields that mean something to each type of check, beside port and pace."""

_ASCII = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(
    r"(?=[A-Za-z0-9])(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*(?<=[A-Za-z0-9])"
)
_STATUS = re.compile(r"[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?){0,15}")
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def check_for(listener: Listener) -> Check | None:
    """The check that applies to a listener: its own, or plain TCP for a tcp one.

    Of a range its first port is asked; of all ports none, as nobody can say which.

    The one place that decides it. None: it has type ``none``, or is a udp listener that
    says nothing, which follows the checks that its gateways have from other listeners.
    """
    if listener.check is not None:
        return None if listener.check.type == "none" else listener.check
    every = listener.ports == (1, HIGHEST)
    return Check() if listener.protocol == "tcp" and not every else None


def check_health_check(path: str, check: Check) -> None:
    """Refuse what a check cannot do, or what means nothing to its type; ``path`` is its own."""
    check_pace(path, check)
    usual = Check()
    for kind in OF_TYPE.values():
        for field in kind:
            given = getattr(check, field)
            if field not in OF_TYPE[check.type] and given != getattr(usual, field):
                where = ", ".join(name for name, has in OF_TYPE.items() if field in has)
                raise InvalidInput(
                    f"`{path}.{field}` means nothing to a check of type {check.type}",
                    f"Leave it out, or use type {where}.",
                )
    _check_words(path, check)
    if check.type == "udp":
        for field in ("payload", "reply"):
            _check_octets(f"{path}.{field}", getattr(check, field))
    if check.type == "exec":
        _check_command(f"{path}.command", check.command)


def _check_words(path: str, check: Check) -> None:
    if check.name and not _HOST.fullmatch(check.name):
        raise InvalidInput(
            f"`{path}.name` is {shown(check.name)}, which is no host name",
            "Use letters, digits and dashes, at most 63 between two dots; the port is `port`.",
        )
    if not check.path.startswith("/") or not _ASCII.fullmatch(check.path):
        raise InvalidInput(
            f"`{path}.path` is {shown(check.path)}",
            "Begin with `/`, and write other characters than printable ASCII as %XX.",
        )
    if not _STATUS.fullmatch(check.status) or any(a > b for a, b in _ranges(check.status)):
        raise InvalidInput(
            f"`{path}.status` is {shown(check.status)}", "Write such as 200, 200-399 or 200,301."
        )
    for field in ("path", "body", "payload", "reply"):
        if len(getattr(check, field)) > MAX_TEXT:
            raise InvalidInput(f"`{path}.{field}` is longer than {MAX_TEXT} characters")
    if not 0 <= check.expires_within <= MAX_DAYS:
        raise InvalidInput(
            f"`{path}.expires_within` is {shown(check.expires_within)}",
            f"Use 0 to {MAX_DAYS} days.",
        )


def _check_octets(path: str, text: str) -> None:
    try:
        octets(text)
    except ValueError:
        raise InvalidInput(
            f"`{path}` is {shown(text)}", "After `hex:` come pairs of hex digits."
        ) from None


def _check_command(path: str, command: tuple[str, ...]) -> None:
    if not 1 <= len(command) <= MAX_WORDS:
        raise InvalidInput(
            f"`{path}` has {len(command)} words", f"Use a program and 0 to {MAX_WORDS - 1} more."
        )
    if not _PROGRAM.fullmatch(command[0]):
        raise InvalidInput(
            f"`{path}[0]` is {shown(command[0])}",
            "Name a program of each device's checks directory, without a path.",
        )
    for index, word in enumerate(command):
        if len(word) > MAX_WORD or "\0" in word:
            raise InvalidInput(
                f"`{path}[{index}]` is {shown(word)}", f"Use at most {MAX_WORD} characters."
            )


def octets(text: str) -> bytes:
    """The bytes that ``payload`` or ``reply`` stand for; ValueError for bad hex digits."""
    return bytes.fromhex(text.removeprefix(HEX)) if text.startswith(HEX) else text.encode()


def has_status(status: int, wanted: str) -> bool:
    """Whether an HTTP status is in a checked list such as ``200-299,301``."""
    return any(low <= status <= high for low, high in _ranges(wanted))


def _ranges(wanted: str) -> Iterator[tuple[int, int]]:
    for part in wanted.split(","):
        low, _, high = part.partition("-")
        yield int(low), int(high or low)
