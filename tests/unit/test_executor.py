"""Effects are carried out in their order; leases side by side open, or close, together."""

from __future__ import annotations

from typing import Any

from agent.executor import Executor
from protocol.config import Config
from protocol.effects import (
    Acquire,
    Effect,
    Event,
    Lame,
    PersistBallots,
    PersistConfig,
    Refresh,
    Release,
    Send,
)
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.messages import Ask
from protocol.timing import SECOND, Profile

WEB, MAIL, RDP = (GroupId(digit * 16) for digit in "123")


class Device:
    """Stands for everything that an executor acts on, and writes down what is asked of it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.vips = self
        self.prober = self.flows = None

    def acquire(self, effects: list[Acquire]) -> None:
        self.done.append("open " + " ".join(effect.group[0] for effect in effects))

    def release(self, effects: list[Release]) -> None:
        self.done.append("close " + " ".join(effect.group[0] for effect in effects))

    def lame(self, effects: list[Lame]) -> None:
        self.done.append("drain " + " ".join(effect.group[0] for effect in effects))

    def refresh(self, effects: list[Refresh]) -> None:
        if effects:
            self.done.append("renew " + " ".join(effect.group[0] for effect in effects))

    def on_event(self, event: Event) -> None:
        self.done.append(event.text)

    def save_config(self, config: Config, committed: Revision) -> None:
        self.done.append("write")

    def on_stored(self, config: Config) -> None:
        self.done.append("make haste")

    def save_ballots(self, number: int, ballots: object) -> None:
        self.done.append(f"vote {number}")


def test_what_is_said_before_a_vote_or_a_lease_is_not_held_back_beyond_it() -> None:
    device: Any = Device()
    executor = Executor(
        send=lambda _, message: device.done.append(type(message).__name__),
        storage=device, carrier=device, listener=device,
    )  # fmt: skip
    question = Ask(WEB, 1, 1, NO_REVISION)
    asks = [Send(DeviceId("a" * 16), question)] * 2
    executor.carry_out([*asks, opens(WEB), *asks, PersistBallots(1, {}), *asks])
    assert device.done == ["Bundle", "open 1", "Bundle", "vote 1", "Bundle"]


def carried_out(*effects: Effect) -> list[str]:
    device: Any = Device()
    executor = Executor(send=lambda *_: None, storage=device, carrier=device, listener=device)
    executor.carry_out(list(effects))
    return list(device.done)


def opens(group: GroupId) -> Acquire:
    return Acquire(group, 1, ("10.0.0.1",), SECOND, 2 * SECOND)


def closes(group: GroupId) -> Release:
    return Release(group, ("10.0.0.1",))


def renews(group: GroupId) -> Refresh:
    return Refresh(group, ("10.0.0.1",), Profile.NORMAL, SECOND)


def drains(group: GroupId) -> Lame:
    return Lame(group, ("10.0.0.1",), SECOND)


def says(text: str) -> Event:
    return Event("primary", None, text)


def test_leases_open_together_before_what_is_told_of_them() -> None:
    done = carried_out(opens(WEB), says("web"), opens(MAIL), says("mail"))
    assert done == ["open 1 2", "web", "mail"]


def test_no_lease_opens_before_one_that_is_to_be_closed_first() -> None:
    done = carried_out(opens(WEB), closes(MAIL), opens(MAIL), opens(RDP), closes(RDP))
    assert done == ["open 1", "close 2", "open 2 3", "close 3"]


def test_leases_close_together_before_what_is_told_of_them() -> None:
    done = carried_out(closes(WEB), says("web"), closes(MAIL), says("mail"))
    assert done == ["close 1 2", "web", "mail"]


def test_leases_drain_together_before_the_successor_is_told() -> None:
    done = carried_out(drains(WEB), says("web"), drains(MAIL), says("mail"), closes(RDP))
    assert done == ["drain 1 2", "web", "mail", "close 3"]


def test_no_lease_closes_before_one_that_is_to_be_renewed_or_opened_first() -> None:
    done = carried_out(
        closes(WEB), renews(MAIL), closes(MAIL), closes(RDP), opens(RDP), closes(RDP)
    )
    assert done == ["close 1", "renew 2", "close 2 3", "open 3", "close 3"]


def test_leases_are_renewed_together_before_others_open() -> None:
    """Hundreds that open take longer than a renewal may wait."""
    done = carried_out(renews(WEB), opens(MAIL), says("mail"), renews(RDP), closes(RDP))
    assert done == ["renew 1 3", "open 2", "mail", "close 3"]
    assert carried_out(opens(MAIL), renews(WEB), renews(RDP)) == ["renew 1 3", "open 2"]


def test_nothing_waits_for_votes_that_go_to_disk() -> None:
    done = carried_out(PersistBallots(7, {}), closes(WEB), opens(MAIL), renews(RDP))
    assert done == ["vote 7", "close 1", "renew 3", "open 2"]


def test_a_configuration_that_comes_is_told_to_those_who_carry_it() -> None:
    coming = PersistConfig(Config(), NO_REVISION)
    assert carried_out(coming, says("stored")) == ["write", "make haste", "stored"]
