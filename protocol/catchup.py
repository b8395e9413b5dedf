"""Carries committed configuration to devices that the coordinator is not connected to.

Each device tells its neighbours what it knows to be committed; one that is
behind asks one that is ahead for what was committed since. Only committed
revisions travel so. They form one history that no later coordinator changes
(Raft's leader completeness), so it does not matter who passes them on; whether
something *is* committed is decided by the coordinator and the voters alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from protocol.config import Config
from protocol.contact import Contact
from protocol.hearsay import Copy, Fetch
from protocol.ids import NO_REVISION, DeviceId, Revision
from protocol.outbox import Outbox
from protocol.replica import Replica, built
from protocol.timing import IDLE_BEAT_NS, MILLISECOND, NEVER, SECOND, next_round

PATIENCE_NS = 1 * SECOND
"""A device that the coordinator can reach waits this long for it."""
HASTE_NS = 10 * MILLISECOND
"""Another one this long: several changes may come at once."""
AGAIN_NS = 2 * SECOND
"""A neighbour that did not answer is given up after this."""


class CatchUp:
    """The fetching and the passing on of one device. Times are its own clock, nanoseconds."""

    def __init__(self, contacts: Mapping[DeviceId, Contact], random: Random) -> None:
        self.contacts = contacts
        self._random = random
        self._behind_since: int | None = None
        self._asked_at = -AGAIN_NS

    def on_time(self, replica: Replica, served: bool, now: int, out: Outbox) -> None:
        """Fetch what a neighbour has and this device lacks.

        ``served``: the coordinator itself is connected, and will send it.
        """
        have = replica.committed.revision
        least = replica.known_committed
        ahead = [
            device
            for device, contact in self.contacts.items()
            if contact.info is not None and have < contact.info.committed >= least
        ]
        if not ahead:
            self._behind_since = None
            return
        if self._behind_since is None:
            self._behind_since = now
        wait = PATIENCE_NS if served else HASTE_NS
        if now >= max(self._behind_since + wait, self._asked_at + AGAIN_NS):
            self._asked_at = now
            out.send(self._random.choice(ahead), Fetch(have))

    def on_copy(self, replica: Replica, copy: Copy, now: int, out: Outbox) -> None:
        """Take what was committed, if it continues what this device has."""
        self._asked_at = now - AGAIN_NS
        self._behind_since = None
        have = replica.committed
        if copy.to <= have.revision:
            return
        if copy.base is not None and copy.base != have.revision:
            return
        config = built(Config() if copy.base is None else have, copy)
        if config is not None:
            replica.take_committed(config, out)

    def wake_at(self, now: int) -> int:
        """When to look again whether to fetch."""
        if self._behind_since is None:
            return NEVER
        due = max(self._behind_since + HASTE_NS, self._asked_at + AGAIN_NS)
        return due if due > now else next_round(now, IDLE_BEAT_NS)


def copy_for(config: Config, has: Revision) -> Copy | None:
    """What a device at the committed revision ``has`` lacks of the committed ``config``."""
    if config.revision <= has:
        return None
    known = has != NO_REVISION and config.descends_from(has) and has >= config.floor
    epochs = tuple((e.term, e.last) for e in config.epochs)
    records = config.since(has) if known else tuple(config.records.values())
    return Copy(has if known else None, config.revision, records, epochs, config.floor)
