"""Whom a device of a large Site calls for a purpose: those that live, however many are dead."""

from __future__ import annotations

from random import Random

from protocol.contact import Contact
from protocol.ids import DeviceId
from protocol.outbox import Outbox
from protocol.overlay import ANSWER_NS, MAX_CALLS, MESH, Overlay
from protocol.standing import PeerState
from protocol.timing import SECOND

DEVICES = [DeviceId(f"{n:016x}") for n in range(4 * MESH)]
DEAD, LIVING = DEVICES[: 2 * MAX_CALLS], DEVICES[2 * MAX_CALLS :]
ROUND = SECOND // 2


class Caller:
    """A device that calls, whose contacts are made and answer as those of a core."""

    def __init__(self, states: dict[DeviceId, PeerState]) -> None:
        self.states = states
        self.silent = set(DEAD)
        self.contacts: dict[DeviceId, Contact] = {}
        self.now = 0
        self.overlay = Overlay(
            self.contacts, lambda d: self.states.get(d, PeerState.ALIVE), Random(1)
        )
        self.overlay.follow(DEVICES, (), self.now)

    def call(self, devices: list[DeviceId], rounds: int = 1) -> set[DeviceId]:
        """Call them again and again; who is called in the end."""
        for _ in range(rounds):
            self.now += ROUND
            self.overlay.call(devices, self.now)
            called = set(self.overlay.peers())
            for device in self.contacts.keys() - called:
                del self.contacts[device]
            for device in called:
                contact = self.contacts.setdefault(device, Contact(device, self.now))
                contact.heard = None if device in self.silent else self.now
            self.overlay.on_time(self.now, Outbox())
        return set(self.overlay._calls)


def dead() -> Caller:
    return Caller(dict.fromkeys(DEAD, PeerState.DEAD))


def test_devices_that_live_are_called_at_once_however_many_dead_ones_are_called_too() -> None:
    caller = dead()
    assert len(caller.call(DEAD)) == MAX_CALLS
    caller.call([*DEAD, *LIVING[:5]])
    assert set(LIVING[:5]) <= set(caller.overlay.peers())


def test_a_device_that_lives_by_hearsay_and_does_not_answer_gives_way() -> None:
    """Twice as many as can be called at once: each is tried, and then it is others' turn."""
    caller = Caller({})
    caller.call([*DEAD, *LIVING[:5]], 2 * ANSWER_NS // ROUND + 4)
    assert set(LIVING[:5]) <= set(caller.overlay.peers())


def test_no_more_than_the_limit_are_called_and_those_that_answer_stay() -> None:
    caller = dead()
    first = caller.call(LIVING, 2)
    assert len(first) == MAX_CALLS
    assert caller.call([*DEAD, *reversed(LIVING)], 20) == first


def test_dead_devices_are_called_while_there_is_room() -> None:
    caller = dead()
    assert set(DEAD[:3]) <= caller.call([*DEAD[:3], *LIVING[:3]], 20)


def test_a_device_that_is_back_is_called_in_place_of_a_dead_one() -> None:
    caller = dead()
    caller.call(DEAD, 20)
    back = DEAD[-1]
    caller.states[back] = PeerState.ALIVE
    caller.silent.discard(back)
    caller.call(DEAD)
    assert back in caller.overlay.peers()
