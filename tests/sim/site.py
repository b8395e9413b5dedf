"""The Site that a simulation starts with: devices, Virtual Servers, assignments."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from protocol.config import Config, Edit
from protocol.effects import Ballot
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.objects import Assignment, Device, Gateway, SiteRecord, Value, VirtualServer
from protocol.timing import Profile


def device_id(index: int) -> DeviceId:
    return DeviceId(f"{index + 1:016x}")


def device_name(index: int) -> str:
    return chr(ord("a") + index)


def group_id(index: int) -> GroupId:
    return GroupId(f"{0xF000 + index:016x}")


def vip_of(index: int) -> str:
    return f"10.77.0.{100 + index}"


ARBITER = "10.77.0.1"


def gateways(server: int) -> tuple[Gateway, ...]:
    return tuple(Gateway(name=f"gw{i}", address=f"10.77.1.{server * 10 + i + 1}") for i in range(2))


@dataclass(frozen=True, slots=True)
class Setup:
    """What a simulation is made of."""

    devices: int = 3
    profiles: tuple[Profile, ...] = (Profile.NORMAL,)
    """One Virtual Server for each."""
    witness: bool = False
    """The last device votes but carries nothing."""
    arbiter: bool = False
    """Two devices may serve alone while they reach the arbiter."""
    founders: int | None = None
    """So many devices are in the Site at the start, the others wait to join; None: all are."""
    on_peer_loss: Literal["serve", "hold"] | None = None
    """What one of two devices does without the other one, and without an arbiter."""
    preempt: int = 0
    """Seconds after which a better-ranked device is handed each Virtual Server; 0: never."""
    carriers: int | None = None
    """So many of the devices carry and vote on each Virtual Server; None: all do."""
    codec: bool = False
    """Every message goes through the codec, as on a real wire."""


FIRST_TERM = 1
FIRST_BALLOTS = {SITE_GROUP: Ballot(FIRST_TERM, device_id(0))}
"""The first device founded the Site, so it was coordinator in term 1."""


def device(index: int, *, witness: bool = False) -> Device:
    return Device(
        id=device_id(index),
        name=device_name(index),
        public_key=f"{index:040d}",
        addresses=(f"10.0.0.{index + 1}:7480",),
        joined=index + 1,
        witness=witness,
    )


def build_site(setup: Setup, random: Random) -> Config:
    """A configuration as an established Site has it."""
    count = setup.devices if setup.founders is None else setup.founders
    ids = tuple(device_id(i) for i in range(count))
    values: list[Value] = [SiteRecord(id="5" * 16, name="sim", voters=ids[:7])]
    values += [device(i, witness=setup.witness and i == count - 1) for i in range(count)]
    for number, profile in enumerate(setup.profiles):
        carriers = list(ids[:-1] if setup.witness else ids)
        if number:
            random.shuffle(carriers)
        carriers = carriers[: setup.carriers]
        witnesses = ids[-1:] if setup.witness else ()
        values.append(
            VirtualServer(
                uid=group_id(number),
                name=f"vs{number}",
                vips=(f"{vip_of(number)}/24",),
                devices=() if setup.founders else tuple(carriers),
                witnesses=witnesses,
                arbiter=ARBITER if setup.arbiter else None,
                profile=profile,
                preempt=setup.preempt,
                on_peer_loss=setup.on_peer_loss,
                gateways=gateways(number),
                seed=number,
            )
        )
        values.append(
            Assignment(
                uid=group_id(number),
                number=1,
                voters=(*carriers, *witnesses),
                vips=(vip_of(number),),
                slowest=profile,
                profile=profile,
                lone=setup.arbiter or setup.on_peer_loss is not None,
            )
        )
    return Config().edited(Edit(put=tuple(values)), FIRST_TERM)
