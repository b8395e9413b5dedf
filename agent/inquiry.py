"""Asks all devices what they know, for an operator: ``explain`` and ``matrix``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

from protocol.ids import DeviceId, GroupId
from protocol.messages import Inquire, Message, Report

PATIENCE_S = 0.5
"""A device that has not answered by then is shown as silent."""
MAX_UNDER_WAY = 16


class _Inquiry:
    def __init__(self, asked: set[DeviceId], done: asyncio.Future[None]) -> None:
        self.asked = asked
        self.done = done
        self.reports: dict[DeviceId, Report] = {}


class Inquiries:
    """The questions of this device that are under way, and its answers to others'."""

    def __init__(
        self,
        send: Callable[[DeviceId, Message], None],
        report: Callable[[str, GroupId | None], Report],
    ) -> None:
        """``report`` makes this device's own answer to a question."""
        self._send = send
        self._report = report
        self._under_way: dict[str, _Inquiry] = {}

    def on_message(self, sender: DeviceId, message: Inquire | Report) -> None:
        """A question of another device, or an answer to one of ours."""
        if isinstance(message, Inquire):
            self._send(sender, self._report(message.id, message.group))
            return
        inquiry = self._under_way.get(message.id)
        if inquiry is None or sender not in inquiry.asked:
            return
        inquiry.reports[sender] = message
        if len(inquiry.reports) == len(inquiry.asked) and not inquiry.done.done():
            inquiry.done.set_result(None)

    async def ask(
        self, me: DeviceId, devices: Iterable[DeviceId], group: GroupId | None = None
    ) -> dict[DeviceId, Report]:
        """What the devices that answer in time report; this one's own report is among it."""
        question = Inquire(secrets.token_hex(8), group)
        others = {device for device in devices if device != me}
        found = {me: self._report(question.id, group)}
        if not others or len(self._under_way) >= MAX_UNDER_WAY:
            return found
        inquiry = _Inquiry(others, asyncio.get_running_loop().create_future())
        self._under_way[question.id] = inquiry
        try:
            for device in others:
                self._send(device, question)
            await asyncio.wait([inquiry.done], timeout=PATIENCE_S)
        finally:
            del self._under_way[question.id]
        return {**found, **inquiry.reports}
