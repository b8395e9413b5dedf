"""Operators' requests on their way to the device that can carry them out.

A change goes to the coordinator, a move to the primary. A request is sent
again, with the same id, while its addressee is silent or unknown; the
addressee carries an id out once. Each request ends with one outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from protocol.effects import Outcome
from protocol.errors import (
    BY_EXIT_CODE,
    ExitCode,
    HalbError,
    NoQuorum,
    TimedOut,
)
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import ProposeChange, RequestMove, Return
from protocol.outbox import Outbox
from protocol.timing import MILLISECOND, NEVER, SECOND

REPEAT_NS = 500 * MILLISECOND
"""An unanswered request is sent again after this."""
DEADLINE_NS = 6 * SECOND
"""An operator's request ends after this at the latest."""


@dataclass(slots=True)
class _Waiting:
    message: ProposeChange | RequestMove
    deadline: int
    addressee: DeviceId | None = None
    """Who held the office at the last look."""
    sent_to: DeviceId | None = None
    repeat_at: int = NEVER


class Requests:
    """Requests of this device's operator that another device carries out."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self.plight: Callable[[DeviceId | None, int], HalbError] = lambda asked, now: NoQuorum(
            "no coordinator is known", "Look at `halbctl status`."
        )
        """``plight(asked, now)``: why no coordinator has taken a change, or said what became of it;
        ``asked``: whom it was sent to, if anybody."""

    def add(
        self, message: ProposeChange | RequestMove, now: int, timeout: int = DEADLINE_NS
    ) -> None:
        """Carry a request to its addressee; it ends after ``timeout`` ns at the latest."""
        self._waiting[message.id] = _Waiting(message, now + min(timeout, DEADLINE_NS))

    def on_return(self, sender: DeviceId, message: Return, out: Outbox) -> None:
        """The addressee answered; answers of anybody else are not heeded."""
        waiting = self._waiting.get(message.id)
        if waiting is None or waiting.sent_to != sender:
            return
        del self._waiting[message.id]
        out.do(outcome_of(message))

    def on_time(
        self,
        office: Callable[[GroupId, int], tuple[DeviceId | None, int]],
        me: DeviceId,
        now: int,
        out: Outbox,
    ) -> list[ProposeChange | RequestMove]:
        """Send what is due; return the requests that this device itself must carry out.

        ``office(group, now)`` is the primary of a group that can be asked, and its term.
        """
        mine: list[ProposeChange | RequestMove] = []
        for request, waiting in list(self._waiting.items()):
            message = waiting.message
            group = message.group if isinstance(message, RequestMove) else SITE_GROUP
            addressee, term = office(group, now)
            new, waiting.addressee = addressee != waiting.addressee, addressee
            if isinstance(message, RequestMove) and addressee is not None and not message.term:
                message = waiting.message = msgspec.structs.replace(message, term=term)
            if now >= waiting.deadline:
                del self._waiting[request]
                out.do(Outcome(request, error=self._not_answered(waiting, group, now)))
            elif addressee == me:
                waiting.repeat_at = NEVER
                mine.append(message)
            elif addressee is None:
                # Whoever takes the office is heard of in a step of its own.
                waiting.repeat_at = NEVER
            elif new or now >= waiting.repeat_at:
                waiting.sent_to, waiting.repeat_at = addressee, now + REPEAT_NS
                out.send(addressee, message)
        return mine

    def _not_answered(self, waiting: _Waiting, group: GroupId, now: int) -> HalbError:
        """Why a request ends that nobody has said anything of."""
        if group == SITE_GROUP:
            why = self.plight(waiting.sent_to, now)
            if waiting.sent_to is None or not isinstance(why, NoQuorum):
                return why
            text = f"the change may have been made by who was asked before; {why.message}"
            return TimedOut(text, why.remedy)
        if waiting.sent_to is None:
            return NoQuorum(
                "the Virtual Server has no primary that could hand it over",
                "`halbctl status` shows why.",
            )
        return TimedOut(
            "the primary did not answer in time", "Look at `halbctl status`, then repeat."
        )

    def taken(self, message: ProposeChange | RequestMove) -> None:
        """This device carries the request out itself, and will tell its outcome."""
        del self._waiting[message.id]

    def addressees(self) -> list[DeviceId]:
        """Devices that requests were sent to and have not answered."""
        return [w.sent_to for w in self._waiting.values() if w.sent_to is not None]

    def wake_at(self) -> int:
        return min((min(w.deadline, w.repeat_at) for w in self._waiting.values()), default=NEVER)


def outcome_of(message: Return) -> Outcome:
    """The outcome that another device's answer stands for."""
    if message.exit_code == ExitCode.DONE:
        return Outcome(message.id, message.revision, message.detail)
    try:
        kind = BY_EXIT_CODE[ExitCode(message.exit_code)]
    except (ValueError, KeyError):
        kind = HalbError
    error = kind(message.detail, message.remedy)
    return Outcome(message.id, message.revision, error=error)


def return_of(outcome: Outcome) -> Return:
    """An outcome as the answer to the device whose operator asked."""
    if outcome.error is None:
        return Return(outcome.request, ExitCode.DONE, outcome.detail, "", outcome.revision)
    error = outcome.error
    assert isinstance(error, HalbError)
    return Return(outcome.request, error.exit_code, error.message, error.remedy, outcome.revision)
