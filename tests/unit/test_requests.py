"""Operators' requests on their way to whoever can carry them out."""

from __future__ import annotations

from protocol.changes import SetDevice
from protocol.effects import Outcome, Send
from protocol.errors import NoQuorum, TimedOut
from protocol.ids import DeviceId
from protocol.messages import ProposeChange
from protocol.outbox import Outbox
from protocol.requests import DEADLINE_NS, REPEAT_NS, Requests

ME, A, B = (DeviceId(digit * 16) for digit in "0ab")
CHANGE = ProposeChange("r", SetDevice("d1", True), None, 0)


def sent_to(requests: Requests, holder: DeviceId | None, now: int) -> list[DeviceId]:
    """Whom a look sends the request to while ``holder`` has the office."""
    out = Outbox()
    assert requests.on_time(lambda *_: (holder, 1), ME, now, out) == []
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


def ended(requests: Requests, holder: DeviceId | None) -> Exception | None:
    """How the request ends when its time is over."""
    out = Outbox()
    requests.on_time(lambda *_: (holder, 1), ME, DEADLINE_NS, out)
    (outcome,) = [effect for effect in out.take() if isinstance(effect, Outcome)]
    return outcome.error


def test_a_change_that_nobody_was_asked_for_was_not_made() -> None:
    requests = Requests()
    requests.add(CHANGE, 0)
    assert sent_to(requests, None, 0) == []
    assert isinstance(ended(requests, None), NoQuorum)


def test_a_change_is_in_doubt_once_a_coordinator_was_asked_that_answers_no_more() -> None:
    for holder in (A, B, None):
        requests = Requests()
        requests.add(CHANGE, 0)
        assert sent_to(requests, A, 0) == [A]
        error = ended(requests, holder)
        assert isinstance(error, TimedOut)
        assert "may have been made" in str(error)
