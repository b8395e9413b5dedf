"""That table in the kernel: made, kept, and changed with the devices of the Site.

Trouble here is never a reason not to carry a Virtual Server.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from agent import door
from agent.listing import difference
from agent.netlink import NetlinkError
from agent.nft import KernelRefused, Nft
from agent.shape import shape
from protocol.addresses import split_endpoint
from protocol.objects import Device

_log = logging.getLogger("halb.kernel")


class Doorkeeper:
    """Table ``inet halb_door`` of this network namespace; but for :meth:`know` used by one thread
    only."""

    def __init__(self, nft: Nft, listen: Sequence[str]) -> None:
        """``listen``: the ``IP:PORT`` of an agent; none has no table."""
        self._nft = nft
        self._listen = listen
        self._devices: Collection[Device] = ()
        self._let_in: Collection[Device] | None = None
        """Whom the table was last compared with; None until the first pass."""
        self._made = ""
        """What is in force; empty until the first pass, and after somebody altered it."""
        self._shape: dict[str, str] = {}
        self._refused = ""
        self._lacking = ""

    def know(self, devices: Collection[Device]) -> None:
        """Whom the next pass lets in without a bound, which stay as they are; may be called from
        any thread."""
        self._devices = devices

    def prepare(self, lacking: str) -> None:
        """``lacking``: why this kernel cannot bound them; empty where it can."""
        self._lacking, self._made = lacking, ""

    def inspect(self) -> tuple[str, ...]:
        """What somebody else changed since the newest pass, in words; the next pass mends it."""
        if not self._made:
            return ()
        now = shape("inet", door.TABLE)
        found = difference(f"table inet {door.TABLE}", self._shape, now)
        if found:
            self._made = ""
        return found

    def reconcile(self) -> bool:
        """Have the table as it is wanted; whether it had to be made."""
        devices = self._devices
        if self._lacking or not self._listen or (self._made and devices is self._let_in):
            return False
        self._let_in = devices
        wanted = door.replaced(self._listen, _addresses(devices))
        if wanted == self._made:
            return False
        try:
            self._nft.run(wanted)
            self._shape = shape("inet", door.TABLE)
        except (KernelRefused, NetlinkError) as error:
            before, self._refused, self._made = self._refused, error.message, ""
            if before != error.message:
                _log.error("connections of strangers are not bounded: %s", error.message)
            return False
        # Nothing where somebody removed it just now: then it is made again.
        self._made, self._refused = wanted if self._shape else "", ""
        return True

    def forget(self) -> None:
        """The table was removed with all others."""
        self._made = ""


def _addresses(devices: Iterable[Device]) -> frozenset[str]:
    return frozenset(
        str(split_endpoint(address)[0]) for each in devices for address in each.addresses
    )
