"""Who does not get the newest configuration, though it lives.

Beats and configuration take different ways: where one is closed, loses large packets, or
brings what an older release cannot read, a device is heard and yet stays as it is. Shown only.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.ids import DeviceId, Revision
from protocol.timing import SECOND

LAGS_NS = 5 * SECOND
"""A revision that a device has not got for so long does not come by itself. A change takes
milliseconds, a device that was away asks for what it missed within two seconds."""


class Lagging:
    """Of one device's neighbours and itself. Times are its own clock, nanoseconds."""

    def __init__(self) -> None:
        self._awaited: dict[DeviceId, tuple[Revision, int]] = {}
        """The oldest revision that a device is known to lack, and since when it is awaited."""

    def look(self, has: Mapping[DeviceId, Revision], now: int) -> None:
        """Note what each device has in force."""
        newest = max(has.values())
        for device in [each for each in self._awaited if each not in has]:
            del self._awaited[device]
        for device, revision in has.items():
            awaited = self._awaited.get(device)
            if revision >= newest:
                self._awaited.pop(device, None)
            elif awaited is None or revision >= awaited[0]:
                # Changes that follow each other must not hide one that never comes.
                self._awaited[device] = newest, now

    def devices(self, now: int) -> tuple[DeviceId, ...]:
        """Those that lack one for longer than :data:`LAGS_NS`."""
        return tuple(d for d, (_, since) in self._awaited.items() if now - since > LAGS_NS)
