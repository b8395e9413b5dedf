"""Asks all devices what they know, for an operator: ``explain`` and ``matrix``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable

import msgspec

from protocol.ids import DeviceId, GroupId
from protocol.messages import Inquire, Message, Report
from protocol.relaying import MAX_HOPS, Relaying, onward

PATIENCE_S = 0.5
"""A device that has not answered by then is shown as silent."""
FAR_PATIENCE_S = 1.5
"""The same where others pass questions and answers on."""
MAX_PATIENCE_S = 60.0
"""The most that an operator may have them wait."""
MAX_UNDER_WAY = 16
MAX_ANSWERS = 64
"""Answers that are put together at one time; further questions are only passed on."""
MAX_NAMED = 16
"""More devices than this are not named in a question that is passed on: all answer it."""

Neighbours = Callable[[], tuple[Collection[DeviceId], bool]]
"""The devices that this one is connected to, and whether they are all."""


class _Inquiry:
    def __init__(self, asked: set[DeviceId], done: asyncio.Future[None]) -> None:
        self.asked = asked
        self.done = done
        self.reports: dict[DeviceId, Report] = {}


class Inquiries:
    """The questions of this device that are under way, and its answers to others'."""

    def __init__(
        self,
        me: DeviceId,
        send: Callable[[DeviceId, Message], None],
        report: Callable[[str, GroupId | None], Awaitable[Report]],
        neighbours: Neighbours,
    ) -> None:
        """``report`` makes this device's own answer to a question, well within its time."""
        self._me = me
        self._send = send
        self._report = report
        self._neighbours = neighbours
        self._relaying = Relaying()
        self._under_way: dict[str, _Inquiry] = {}
        self._answers: set[asyncio.Task[None]] = set()

    def on_message(self, sender: DeviceId, message: Inquire | Report) -> None:
        """A question of another device, or an answer to one of ours, or of others to others."""
        if isinstance(message, Inquire):
            self._on_question(sender, message)
        else:
            self._on_report(sender, message)

    def _on_question(self, sender: DeviceId, asked: Inquire) -> None:
        if not self._relaying.first(asked.id, sender):
            return
        if (not asked.to or self._me in asked.to) and len(self._answers) < MAX_ANSWERS:
            answer = asyncio.get_running_loop().create_task(self._answer(sender, asked))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)
        passed_on = msgspec.structs.replace(asked, hops=min(asked.hops, MAX_HOPS) - 1)
        for device in onward(self._neighbours()[0], sender, asked.hops):
            self._send(device, passed_on)

    async def _answer(self, sender: DeviceId, asked: Inquire) -> None:
        self._send(sender, await self._report(asked.id, asked.group))

    def _on_report(self, sender: DeviceId, report: Report) -> None:
        by = report.by or sender
        inquiry = self._under_way.get(report.id)
        if inquiry is None:
            origin = self._relaying.back(report.id)
            if origin is not None and origin != sender:
                self._send(origin, msgspec.structs.replace(report, by=by))
            return
        if by not in inquiry.asked:
            return
        inquiry.reports[by] = report
        if len(inquiry.reports) == len(inquiry.asked) and not inquiry.done.done():
            inquiry.done.set_result(None)

    async def ask(
        self, devices: Iterable[DeviceId], group: GroupId | None = None, patience: float = 0.0
    ) -> dict[DeviceId, Report]:
        """What the devices that answer in time report; this one's own report is among it.

        ``patience``: seconds, at most :data:`MAX_PATIENCE_S`; 0 is as usual.
        """
        neighbours, all_of_them = self._neighbours()
        to = tuple(device for device in devices if device != self._me)
        question = Inquire(secrets.token_hex(8), group)
        if not all_of_them:
            named = to if len(to) <= MAX_NAMED else ()
            question = msgspec.structs.replace(question, hops=MAX_HOPS, to=named)
        own = asyncio.ensure_future(self._report(question.id, group))
        if not to or len(self._under_way) >= MAX_UNDER_WAY:
            return {self._me: await own}
        inquiry = _Inquiry(set(to), asyncio.get_running_loop().create_future())
        self._under_way[question.id] = inquiry
        self._relaying.first(question.id, None)
        try:
            for device in to if all_of_them else neighbours:
                self._send(device, question)
            usual = PATIENCE_S if all_of_them else FAR_PATIENCE_S
            seconds = min(patience, MAX_PATIENCE_S) if patience > 0 else usual
            await asyncio.wait([inquiry.done], timeout=seconds)
        finally:
            del self._under_way[question.id]
        return {self._me: await own, **inquiry.reports}
