"""A majority of voters that is lost for good, given up by force.

Nothing can commit without a majority, so this is outside the protocol's promises:
an operator vouches that the lost devices are gone. New voter lists, of
survivors only, are written with a term far ahead of any that the lost ones may
have reached, so that what they did since counts nowhere: when they come back
they are behind, and are given the Site's configuration whole. If they were not
gone, there are two primaries until they hear of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from protocol.admission import device_named
from protocol.assignment import wanted_voters
from protocol.config import Config, Edit
from protocol.errors import Refused
from protocol.ids import DeviceId, Revision
from protocol.objects import MAX_VOTERS, Assignment, Key, Value
from protocol.quorum import has_majority
from protocol.terms import TERM_LEAP


@dataclass(frozen=True, slots=True)
class Survivor:
    """A device that this one hears, itself included."""

    device: DeviceId
    stored: Revision
    """Newest configuration on its disk."""


def chosen(
    config: Config, me: DeviceId, heard: Mapping[DeviceId, Survivor], names: Iterable[str]
) -> tuple[DeviceId, ...]:
    """The survivors that the operator named, or all that are heard, oldest first.

    Raises where one is not heard, or has more of the configuration than this device.
    """
    wanted = []
    for name in names:
        device = device_named(config, name)
        if device.id not in heard:
            raise Refused(
                f"device {name!r} cannot be heard from here",
                "Name only devices that run and reach each other.",
            )
        wanted.append(device.id)
    if wanted and me not in wanted:
        raise Refused("this device is not among the survivors", "Run the command on one of them.")
    found = tuple(d for d in config.devices if d in (wanted or heard))
    newer = [d for d in found if heard[d].stored > heard[me].stored]
    if newer:
        best = max(newer, key=lambda d: heard[d].stored)
        raise Refused(
            f"device {config.devices[best].name!r} has a newer configuration "
            f"({heard[best].stored}) than this one ({heard[me].stored})",
            "Run the command there, so that nothing more is lost.",
        )
    return found


def site_is_lost(config: Config, survivors: Iterable[DeviceId]) -> bool:
    """Whether the survivors are no majority of the coordinator's voters."""
    assert config.site is not None
    return not has_majority(config.site.voters, tuple(survivors))


def recovery_edit(
    config: Config, survivors: tuple[DeviceId, ...], term: int, *, alone: bool
) -> Edit:
    """New voter lists of survivors, wherever they are no majority any more.

    So too where they are none of the voters before a change that needs their word still: it
    would wait for ever, and with it all that follows. Of a deleted Virtual Server all of whose
    voters are lost nothing is left, and its VIPs are free.

    ``term``: far ahead of all that is known of any group; nobody else forces it. ``alone``:
    there is no coordinator. One that there is has a majority of its voters, whoever else may be
    heard where the operator asks; they change one at a time.
    """
    put: list[Value] = []
    delete: list[Key] = []
    site = config.site
    assert site is not None
    if alone and site_is_lost(config, survivors):
        put.append(msgspec.structs.replace(site, voters=survivors[:MAX_VOTERS]))
    for uid, assignment in config.assignments.items():
        serves = has_majority(assignment.voters, survivors)
        if serves and (assignment.settled or _settles(assignment, survivors)):
            continue
        server = config.virtual_servers.get(uid)
        others = wanted_voters(config, server) if server and not serves else ()
        wanted = (*assignment.voters, *others)
        voters = tuple(dict.fromkeys(v for v in wanted if v in survivors))
        if voters:
            put.append(_forced(assignment, voters, term))
        elif server is None:
            delete.append(("assignment", uid))
    return Edit(tuple(put), tuple(delete))


def _settles(assignment: Assignment, survivors: tuple[DeviceId, ...]) -> bool:
    return has_majority(assignment.former or assignment.voters, survivors)


def _forced(now: Assignment, voters: tuple[DeviceId, ...], term: int) -> Assignment:
    return msgspec.structs.replace(
        now,
        number=now.number + 1,
        voters=voters[:MAX_VOTERS],
        former=(),
        releasing=(),
        lone=now.lone and len(voters) == 2,
        formerly_lone=False,
        term=max(term, now.term + TERM_LEAP),
    )


def nothing_lost() -> Refused:
    """Why there is nothing to recover."""
    return Refused(
        "the survivors are a majority of all voters: nothing is lost that force could bring back",
        "Remove devices that are gone with `halbctl device remove`.",
    )
