"""Operators' requests on their way to whoever can carry them out."""

from __future__ import annotations

from protocol.changes import SetDevice
from protocol.effects import Send
from protocol.ids import DeviceId
from protocol.messages import ProposeChange
from protocol.outbox import Outbox
from protocol.requests import REPEAT_NS, Requests

ME, A, B = (DeviceId(digit * 16) for digit in "0ab")
CHANGE = ProposeChange("r", SetDevice("d1", True), None, 0)


def sent_to(requests: Requests, holder: DeviceId | None, now: int) -> list[DeviceId]:
    """Whom a look sends the request to while ``holder`` has the office."""
    out = Outbox()
    assert requests.on_time(lambda _: (holder, 1), ME, now, out) == []
    return [effect.to for effect in out.take() if isinstance(effect, Send)]


def test_a_request_is_sent_once_and_again_after_a_while() -> None:
    requests = Requests()
    requests.add(CHANGE, 0)
    assert sent_to(requests, A, 0) == [A]
    assert sent_to(requests, A, 1) == []
    assert sent_to(requests, A, REPEAT_NS) == [A]


def test_whoever_holds_the_office_anew_is_sent_it_though_it_had_it_before() -> None:
    requests = Requests()
    requests.add(CHANGE, 0)
    assert sent_to(requests, A, 0) == [A]
    assert sent_to(requests, None, 1) == []
    assert sent_to(requests, A, 2) == [A]
    assert sent_to(requests, B, 3) == [B]
    assert sent_to(requests, A, 4) == [A]
