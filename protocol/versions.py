"""Releases that differ, in one Site: who speaks what, and when all may speak more.

Every device tells the range of protocol versions that it speaks. The Site's gate
is the version that all messages are encoded for. The coordinator raises it, in
the configuration, once every device has reported the newer version for
:data:`SETTLED_NS`; it never falls, so an older release cannot come back after
that. A release that needs a version reads the one before it, too.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from protocol.config import Config, Edit
from protocol.ids import DeviceId
from protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN, Info
from protocol.timing import SECOND

SETTLED_NS = 10 * SECOND
"""A newer version must have been reported by everyone for this long."""
LOOK_NS = SECOND
"""Interval of looking."""

Range = tuple[int, int]
HeardFrom = Callable[[DeviceId, int], Info | None]
"""``heard_from(device, now)``: what a device that lives tells of itself; None if none does."""
OURS: Range = (PROTOCOL_MIN, PROTOCOL_MAX)

SINCE: dict[str, int] = {}
"""Kinds of messages, by tag, that came after version 1, with the version that has them."""


def speakable(tag: str, version: int) -> bool:
    """Whether a message of this kind may be sent to a Site whose gate is ``version``."""
    return SINCE.get(tag, 1) <= version


def cannot_speak(config: Config, ours: Range) -> str:
    """Why this release does not fit the Site; empty if it does."""
    gate = config.site.protocol if config.site else ours[1]
    if ours[0] <= gate <= ours[1]:
        return ""
    return f"speaks protocol {ours[0]} to {ours[1]} and the Site speaks {gate}: install its release"


class Gate:
    """Watches what the devices report, on the coordinator."""

    def __init__(self, me: DeviceId, ours: Range) -> None:
        self.me = me
        self.ours = ours
        self._office = 0
        self._common = 0
        self._since = 0
        self._look_at = 0

    def raised(self, config: Config, term: int, heard_from: HeardFrom, now: int) -> Edit:
        """What the coordinator of ``term`` writes now: a higher gate, or nothing."""
        if now < self._look_at and term == self._office:
            return Edit()
        self._look_at = now + LOOK_NS
        common = self._lowest(config, heard_from, now)
        if (common, term) != (self._common, self._office):
            self._common, self._office, self._since = common, term, now
        site = config.site
        if site is None or common <= site.protocol or now - self._since < SETTLED_NS:
            return Edit()
        return Edit(put=(msgspec.structs.replace(site, protocol=common),))

    def _lowest(self, config: Config, heard_from: HeardFrom, now: int) -> int:
        """The newest version that every device speaks; 0 while one is not heard."""
        lowest = self.ours[1]
        for device in config.devices:
            if device == self.me:
                continue
            info = heard_from(device, now)
            if info is None:
                return 0
            lowest = min(lowest, info.protocol_max)
        return lowest
