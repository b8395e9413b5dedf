"""Messages of one step about many groups' elections: to each device in few frames. Pure."""

from __future__ import annotations

from collections.abc import Callable

from protocol.bundle import MAX_BUNDLE, Bundle, Frame, OfGroup
from protocol.ids import DeviceId
from protocol.messages import Message


class Bundles:
    """Holds such messages back until the step is over, or another goes to the same device: so
    each device is told everything in the order in which it was said."""

    def __init__(self, send: Callable[[DeviceId, Frame], None]) -> None:
        self._send = send
        self._held: dict[DeviceId, list[OfGroup]] = {}

    def send(self, to: DeviceId, message: Message) -> None:
        """Send now or, one about an election, with :meth:`flush`."""
        if isinstance(message, OfGroup):
            self._held.setdefault(to, []).append(message)
            return
        if to in self._held:
            self._send_held(to, self._held.pop(to))
        self._send(to, message)

    def flush(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, {}
        for to, messages in held.items():
            self._send_held(to, messages)

    def _send_held(self, to: DeviceId, messages: list[OfGroup]) -> None:
        if len(messages) == 1:
            self._send(to, messages[0])
            return
        for at in range(0, len(messages), MAX_BUNDLE):
            self._send(to, Bundle(tuple(messages[at : at + MAX_BUNDLE])))
