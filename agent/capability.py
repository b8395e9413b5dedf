"""The capabilities of this process, so that a missing one is named before anything fails."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from protocol.errors import HalbError

NUMBER = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""Bit numbers, from ``capability.h`` of Linux."""


class CapabilityMissing(HalbError):
    """The kernel would refuse, because the process lacks a capability."""

    def __init__(self, names: Iterable[str], purpose: str) -> None:
        wanted = " and ".join(names)
        super().__init__(
            f"no permission to {purpose}: {wanted} missing",
            "Run halb-agent as root, or grant it: AmbientCapabilities= in the systemd unit, "
            "--cap-add with containers.",
        )


def require(names: Iterable[str], purpose: str) -> None:
    """Raise :class:`CapabilityMissing` that lists which of ``names`` the process lacks."""
    held = _effective()
    missing = [name for name in names if not held >> NUMBER[name] & 1]
    if missing:
        raise CapabilityMissing(missing, purpose)


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise HalbError("/proc/self/status has no CapEff line", "HALB needs Linux with /proc mounted.")
