"""What this process and its kernel are able to, so that a lack is named before anything fails."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable
from pathlib import Path
from platform import release

from protocol.errors import HalbError

DESCRIPTORS = 65_536
"""Files that the agent may want to have open: 9 to 15 for each peer, one or two for each check."""
NUMBER = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_NICE": 23}
"""Bit numbers, from ``capability.h`` of Linux."""


KERNEL = (5, 18)
"""The egress hook came with 5.16, the mark of an address's origin with 5.18."""


class KernelTooOld(HalbError):
    """The kernel lacks what a lease needs."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"this kernel is Linux {found}: it cannot keep a lease for HALB",
            "Linux {}.{} or newer is needed on devices.".format(*KERNEL),
        )


class CapabilityMissing(HalbError):
    """The kernel would refuse, because the process lacks a capability."""

    def __init__(self, names: Iterable[str], purpose: str) -> None:
        wanted = " and ".join(names)
        super().__init__(
            f"no permission to {purpose}: {wanted} missing",
            "Run halb-agent as root, or grant it: AmbientCapabilities= in the systemd unit, "
            "--cap-add with containers; rootless ones have no right to the host's network.",
        )


def require(names: Iterable[str], purpose: str) -> None:
    """Raise :class:`CapabilityMissing` that lists which of ``names`` the process lacks."""
    missing = [name for name in names if not holds(name)]
    if missing:
        raise CapabilityMissing(missing, purpose)


def allow_descriptors() -> None:
    """Let this process open as many files as the host allows, and no more than it may want.

    The usual limit of 1024 is one of `select`, which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def require_kernel(found: str | None = None) -> None:
    """Raise :class:`KernelTooOld` if the release ``found`` (default: the running one) is."""
    found = found or release()
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers and (int(numbers[1]), int(numbers[2])) < KERNEL:
        raise KernelTooOld(found)


def holds(name: str) -> bool:
    """Whether a capability is in effect for this process, be it in a user namespace only."""
    return bool(_effective() >> NUMBER[name] & 1)


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise HalbError("/proc/self/status has no CapEff line", "HALB needs Linux with /proc mounted.")
