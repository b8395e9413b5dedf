"""What an operator does without a majority, on one device: ``recover`` and ``--local``.

To recover: with a coordinator the new voter lists are a change like any other. Without
one this device writes them itself and sends them to the survivors, until a
coordinator that they elect has committed them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.changes import RecoverVoters
from protocol.config import Config, Edit
from protocol.configuration import Configuration
from protocol.effects import Event, Outcome, Propose, Recover
from protocol.errors import HalbError, NotCommitted, Refused, TimedOut
from protocol.ids import SITE_GROUP, DeviceId, Revision
from protocol.messages import Append, ProposeChange
from protocol.neighbourhood import Neighbourhood
from protocol.objects import SiteRecord
from protocol.offices import Offices
from protocol.outbox import Outbox
from protocol.plight import no_coordinator
from protocol.recovery import (
    Survivor,
    chosen,
    nothing_lost,
    recovery_edit,
    site_is_lost,
)
from protocol.requests import Requests
from protocol.terms import TERM_LEAP, block, turn_of
from protocol.timing import MILLISECOND, NEVER, SECOND

REPEAT_NS = 200 * MILLISECOND
REACH_NS = 5 * SECOND
"""Devices that are to vote, and are no neighbours, must be heard within this."""
MAX_NAMED = 10
"""More survivors than this are counted, not named."""
PATIENCE_NS = 15 * SECOND
"""By then the survivors have a coordinator, or something else is wrong."""


@dataclass(slots=True)
class _UnderWay:
    request: str
    config: Config
    survivors: tuple[DeviceId, ...]
    deadline: int
    send_at: int = 0


@dataclass(frozen=True, slots=True)
class _Reaching:
    """New voters that this device is not connected to yet."""

    asked: Recover
    missing: tuple[DeviceId, ...]
    deadline: int


class Rescue:
    """At most one recovery at a time."""

    def __init__(
        self,
        me: DeviceId,
        configuration: Configuration,
        requests: Requests,
        offices: Offices,
        neighbourhood: Neighbourhood,
    ) -> None:
        self.me = me
        self._offices = offices
        self._neighbourhood = neighbourhood
        self._contacts = neighbourhood.contacts
        self._configuration = configuration
        self._requests = requests
        self._now: _UnderWay | None = None
        self._reaching: _Reaching | None = None
        requests.plight = self._plight

    def _plight(self, asked: DeviceId | None, now: int) -> HalbError:
        if asked is not None and asked == self._offices.hears_coordinator(now):
            return TimedOut(
                "the coordinator has not said what became of the change",
                "Look at `halbctl status`, then repeat.",
            )
        heard = self._heard(now)
        return no_coordinator(self._configuration.newest, heard.__contains__)

    # Break glass

    def propose(self, asked: Propose, now: int, out: Outbox) -> None:
        """Carry a change to the coordinator, or make it here alone where that is asked."""
        message = ProposeChange(
            asked.request, asked.change, asked.if_revision, asked.unix_s, self.me
        )
        if not asked.local:
            self._requests.add(message, now, asked.timeout)
        elif self._offices.hears_coordinator(now) is not None:
            error = Refused("the coordinator can be reached", "Make the change without --local.")
            out.do(Outcome(asked.request, error=error))
        else:
            out.do(self._configuration.edit_locally(message, out))

    def _end_local_changes(self, now: int, out: Outbox) -> None:
        """A coordinator that is back and has nothing newer sends nothing that would end them."""
        holder = self._offices.hears_coordinator(now)
        contact = self._contacts.get(holder) if holder is not None else None
        info = contact.info if contact is not None else None
        if info is not None and info.stored == self._configuration.in_force.revision:
            self._configuration.end_local(out)

    # Recovery

    def _heard(self, now: int) -> dict[DeviceId, Survivor]:
        others = self._neighbourhood
        told = ((device, others.heard_from(device, now)) for device in others.membership.members)
        heard = {device: Survivor(device, info.stored) for device, info in told if info}
        heard[self.me] = Survivor(self.me, self._configuration.durable)
        return heard

    def _far(self, devices: Iterable[DeviceId], now: int) -> tuple[DeviceId, ...]:
        """Those that are known to live by hearsay alone."""
        near = (self.me, *(d for d, c in self._contacts.items() if c.info and c.alive(now)))
        return tuple(device for device in devices if device not in near)

    @property
    def awaited(self) -> tuple[DeviceId, ...]:
        """Devices that must be connected before this goes on."""
        return self._reaching.missing if self._reaching else ()

    def begin(self, asked: Recover, now: int, out: Outbox) -> None:
        """Carry out the operator's word, once those who are to vote on it are reached."""
        if self._reaching is not None:
            self._give_way(self._reaching.asked.request, asked.request, out)
            self._reaching = None
        self._attempt(asked, now + REACH_NS, now, out)

    def _attempt(self, asked: Recover, deadline: int, now: int, out: Outbox) -> None:
        config = self._configuration.newest
        heard = self._heard(now)
        try:
            survivors = chosen(config, self.me, heard, asked.devices)
            lost = site_is_lost(config, survivors)
            term = self._own_term(config, alone=lost)
            edit = recovery_edit(config, survivors, term, alone=lost)
            if not (edit.put or edit.delete):
                raise nothing_lost()
        except HalbError as error:
            out.do(Outcome(asked.request, error=error))
            return
        if not lost:
            # A coordinator leaps from the newest term that it is told.
            terms = dict.fromkeys(config.assignments, term - TERM_LEAP)
            change = RecoverVoters(survivors, tuple(sorted(terms.items())))
            proposal = ProposeChange(asked.request, change, None, asked.unix_s, self.me)
            self._requests.add(proposal, now)
            return
        missing = self._far(_new_voters(edit), now)
        if missing and now < deadline:
            self._reaching = _Reaching(asked, missing, deadline)
            return
        if missing:
            out.do(Outcome(asked.request, error=_unreached(config, missing)))
            return
        if self._now is not None:
            self._give_way(self._now.request, asked.request, out)
        forced = config.edited(edit, term)
        self._configuration.force(forced, out)
        out.do(Event("recover", SITE_GROUP, "forced new voters", term, self.me))
        self._now = _UnderWay(asked.request, forced, survivors, now + PATIENCE_NS)

    def _own_term(self, config: Config, *, alone: bool) -> int:
        # Also what the other side of a split has said: who stands here goes on from there.
        heard = map(self._offices.known_term, (SITE_GROUP, *config.assignments))
        voted = map(self._configuration.term_of, config.assignments)
        written = (each.term for each in config.assignments.values())
        newest = max(config.revision.term, *heard, *voted, *written)
        return block(newest, turn_of(self.me, config, alone=alone))

    def _give_way(self, former: str, to: str, out: Outbox) -> None:
        """End a request that a later one takes the place of; one that is repeated goes on."""
        if former != to:
            error = Refused("another recovery has begun here", "Look at `halbctl status`.")
            out.do(Outcome(former, error=error))

    def on_time(self, now: int, out: Outbox) -> None:
        """Send the forced configuration again, or end; end local changes that are over."""
        if self._configuration.local is not None:
            self._end_local_changes(now, out)
        reaching = self._reaching
        if reaching and (now >= reaching.deadline or not self._far(reaching.missing, now)):
            self._reaching = None
            self._attempt(reaching.asked, reaching.deadline, now, out)
        work = self._now
        if work is None:
            return
        in_force = self._configuration.in_force
        if in_force.descends_from(work.config.revision):
            names = [in_force.devices[d].name for d in work.survivors if d in in_force.devices]
            few = len(names) <= MAX_NAMED
            text = f"recovered with {', '.join(names) if few else f'{len(names)} devices'}"
            out.do(Outcome(work.request, in_force.revision, text))
            self._now = None
        elif now >= work.deadline:
            error = NotCommitted(
                "the new voters are stored here, but elected no coordinator yet",
                "Look at `halbctl status`: all survivors must run and reach each other.",
            )
            out.do(Outcome(work.request, work.config.revision, error=error))
            self._now = None
        elif now >= work.send_at:
            work.send_at = now + REPEAT_NS
            message = _whole(work.config)
            # In a large Site the others get it from these, when it is committed.
            for device in work.survivors:
                if device in self._contacts:
                    out.send(device, message)

    def wake_at(self) -> int:
        reach = self._reaching.deadline if self._reaching else NEVER
        return min(self._now.send_at, self._now.deadline, reach) if self._now else reach


def _new_voters(edit: Edit) -> tuple[DeviceId, ...]:
    return next((value.voters for value in edit.put if isinstance(value, SiteRecord)), ())


def _unreached(config: Config, missing: tuple[DeviceId, ...]) -> Refused:
    names = ", ".join(config.devices[device].name for device in missing)
    return Refused(
        f"cannot reach {names}, who would decide from now on and are known by hearsay alone",
        "Repeat it once `halbctl status` shows them dead, or name the devices that survived.",
    )


def _whole(config: Config) -> Append:
    epochs = tuple((e.term, e.last) for e in config.epochs)
    records = tuple(config.records.values())
    nothing = Revision()
    return Append(
        config.revision.term, None, config.revision, records, epochs, config.floor, nothing
    )
