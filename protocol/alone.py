"""One of two devices without the other: what it asks the network, and what it has seen.

Times are nanoseconds of the device's own clock. The decision itself is in
:mod:`protocol.arbiter`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.arbiter import Sight, Wait, why_not_ask, why_not_open, why_not_take
from protocol.effects import Announce, Event, ProbeArbiter, Probed
from protocol.ids import DeviceId
from protocol.messages import Claim, Reason, Resign
from protocol.outbox import Outbox
from protocol.timing import NEVER, next_round
from protocol.view import Role

if TYPE_CHECKING:
    from protocol.group import Group


Heard = Callable[[DeviceId], int | None]
"""When a device was last heard on any link; None: not since the start."""


class Alone:
    """Evidence for serving alone, and the time spent so."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._voter = group.voter
        self.heard: Heard = lambda _: None
        self.since: int | None = None
        """This device has served without the other one since then."""
        self.told = False
        """It is no passing loss any more, and history knows."""
        self.forced = False
        """An operator told this device to take over."""
        self.was_primary = False
        """This device served last, as far as it knows."""
        self.rival = False
        """The other device turned out to serve, too, and has not let go yet."""
        self._met = False
        """Somebody else answered for the VIPs once while this device served alone."""
        self.ask_next = 0
        self._arbiter: int | None = None
        self._quiet = 0
        self._quiet_until = 0
        self._free_at: int | None = None
        """Until when nobody answered for the VIPs; None: somebody did, or nobody was asked."""
        self._claimed_until = 0
        """Until then a device that claims by an older voter list may hold its lease."""

    @property
    def allowed(self) -> bool:
        """Whether one of the two may serve alone."""
        return self._voter.electorate.lone

    def sight(self) -> Sight:
        heard = [at for d in self._rivals if (at := self.heard(d)) is not None]
        return Sight(
            max(heard, default=None), self._arbiter, self._quiet, self.was_primary, self.forced,
            self._claimed_until,
        )  # fmt: skip

    @property
    def _rivals(self) -> list[DeviceId]:
        """Who else may serve alone now, or might still by the voter list before."""
        pair = self._voter.electorate.pair
        return [device for device in pair.devices if device != self._voter.me] if pair else []

    # By the vote of a majority, while one of two may serve alone by the voter list before

    def clear(self, now: int) -> bool:
        """Whether a device that a majority would elect may stand, as far as these two go.

        Those who would vote for it say so themselves that they do not serve, and so does a
        primary that resigns; of others an unanswered question for the VIPs tells.
        """
        candidacy = self._group.candidacy
        return candidacy.vacant_since is not None or self._is_free(candidacy.backers(now), now)

    def may_open(self, now: int) -> bool:
        """Whether a majority's word is enough to open the lease now.

        Who voted for this device takes nothing alone before its promise ends. Anybody else
        asks three rounds, of half a T each, before it opens, and sees this device's questions
        or is seen: so silence of the VIPs means something for a T.
        """
        return self._is_free(self._group.candidacy.bound(now), now)

    def _is_free(self, vouch: set[DeviceId], now: int) -> bool:
        """``vouch``: devices that serve nobody, by their own word."""
        if self.allowed or vouch.issuperset(self._rivals):
            return True
        if self._free_at is None or self.opposed(now):
            return False
        return now - self._free_at <= self._voter.timing.interval

    def on_claim(
        self, sender: DeviceId, claim: Claim, follows: bool, now: int, out: Outbox
    ) -> None:
        """Another device claims the group; ``follows``: this one accepts it."""
        if claim.number < self._voter.electorate.number and sender in self._rivals:
            self._claimed_until = now + self._voter.promise_for(claim.interval)
        self.on_rival(follows, now, out)

    def opposed(self, now: int) -> bool:
        """Whether a device that serves by an older voter list was heard to."""
        return not self.allowed and now < self._claimed_until

    # As a secondary

    def seek_office(self, now: int, out: Outbox) -> None:
        """Gather the evidence that stands for the other device's vote, and act on it."""
        self.look(now, out)
        group = self._group
        if self.allowed and group.candidacy.timely(now) and self.why_not(now) is Wait.NONE:
            group.campaign(now, out, alone=True)

    def still_may(self, now: int) -> bool:
        """Whether a candidate that stands alone may serve, now that its vote is on disk."""
        able = self.allowed and self.why_not(now) is Wait.NONE
        self.since = now if able else None
        return able

    def look(self, now: int, out: Outbox) -> None:
        """Ask the arbiter, and once it answers for the VIPs, while a takeover is possible."""
        pair = self._voter.electorate.pair
        if pair is None or now < self.ask_next:
            return
        sight, timing = self.sight(), self._voter.timing
        if self.allowed:
            reason = why_not_ask(pair, sight, timing, now)
        elif self._elected(now):
            reason = why_not_open(pair, sight, timing, now)
        else:
            reason = Wait.CLAIMED
        if reason not in (Wait.NONE, Wait.ARBITER):
            self._quiet = 0
            self.ask_next = now + timing.interval // 2
            if reason is Wait.HEARS_PEER and sight.peer is not None:
                self.ask_next = sight.peer + timing.ask
            return
        # Only who may take the VIPs asks for them: of two that ask, one lets the other go first.
        vips = self._group.vips if reason is Wait.NONE else ()
        self._probe(pair.arbiter, vips, False, now, out)

    def _elected(self, now: int) -> bool:
        """Whether a majority is for this device, so that the VIPs are all that it asks for."""
        group = self._group
        if group.role is Role.ELECT or (group.role is Role.CANDIDATE and self._voter.unwritten):
            return True
        return now - self._voter.heard >= group.timing.ask and group.candidacy.backed(now)

    def why_not(self, now: int) -> Wait:
        """Why this secondary does not take over alone, or a majority elects it in vain."""
        pair, timing = self._voter.electorate.pair, self._voter.timing
        if pair is not None and self.allowed:
            return why_not_take(pair, self.sight(), timing, now)
        if pair is None or self.clear(now):
            return Wait.NONE
        return why_not_open(pair, self.sight(), timing, now) or Wait.OWNED

    def waits_for(self, now: int) -> Wait:
        """What keeps a secondary that misses the primary from taking over, but for votes."""
        if self._group.role is Role.PRIMARY or not (self.allowed or self._elected(now)):
            return Wait.NONE
        why = self.why_not(now)
        return Wait.NONE if why is Wait.HEARS_PEER else why

    def due(self, now: int) -> int:
        """When one that is not primary has to look again."""
        voter = self._voter
        if voter.electorate.pair is None:
            return NEVER
        if self._group.role is Role.ELECT:
            return NEVER if self.may_open(now) else self.ask_next
        due = max(voter.heard + voter.timing.ask, self.ask_next)
        if not self.allowed:
            return max(due, self._group.candidacy.not_before)
        peer = self.sight().peer
        silent = 0 if peer is None else peer + voter.timing.promise
        due = min(due, silent) if silent > now else due
        return max(due, self._group.candidacy.not_before)

    # As the primary

    def keep(self, now: int, out: Outbox) -> None:
        """As primary that misses the other device: ask the arbiter, or go on without one."""
        pair, group = self._voter.electorate.pair, self._group
        self.was_primary |= group.role is Role.PRIMARY
        if pair is None or not self.allowed or now < self.due_as_primary():
            return
        if self.since is None:
            self.since = group.lease.confirmed
        self._tell(now, out)
        self._probe(pair.arbiter, group.vips, True, now, out)
        if pair.arbiter is None:
            self._go_on(now, now, out)
            self.ask_next = self._next_beat(now)

    def _next_beat(self, now: int) -> int:
        """When this device's next beat is due.

        A lease that is renewed only then ends before 3 T of the beat have passed, so a
        secondary that hears beats and cannot answer does not take over too early.
        """
        return next_round(now, self._voter.timing.interval)

    def _go_on(self, at: int, now: int, out: Outbox) -> None:
        """What was asked at ``at`` confirms the lease, in place of the other device."""
        group = self._group
        if group.lease.lapsed(now):
            # Somebody else may have found the VIPs unanswered: ask first, like anybody.
            group.step_down(group.timing.interval, now, out)
        else:
            group.lease.extend(at, group.timing)
            group.renew(now, out)

    def due_as_primary(self) -> int:
        """When a primary has to look for the arbiter."""
        group = self._group
        if not self.allowed or group.role is not Role.PRIMARY:
            return NEVER
        return group.lease.missed if self.since is None else self.ask_next

    def _tell(self, now: int, out: Outbox) -> None:
        """Say that this primary serves alone, once that is no passing loss."""
        voter = self._voter
        if self.since is not None and not self.told and now - self.since >= voter.timing.promise:
            self.told = True
            text = "serves alone: the other device is silent"
            out.do(Event("alone", voter.group, text, voter.term, voter.me))

    def reunited(self, out: Outbox) -> None:
        """The other device follows this one: whoever looked to it shall look here."""
        if self.since is None:
            return
        if self.told or self.rival:
            out.do(Announce(self._voter.group, self._group.vips))
        self.end()

    def end(self) -> None:
        """This device is not primary without the other one (any more)."""
        self.since = None
        self.rival = self.told = self._met = False
        self.forget()

    def refuses_equal(self, sender: DeviceId, number: int) -> Reason:
        """Why a claim in this primary's own term is refused.

        Two primaries of one term cannot be, unless one of two devices made it alone: then
        that of the newer voter list stays, or of the same the higher id.
        """
        older = number <= self._voter.electorate.number
        stays = not self.allowed or (older and sender < self._voter.me)
        return Reason.VOTED_OTHER if stays else Reason.NONE

    def on_rival(self, yields: bool, now: int, out: Outbox) -> None:
        """The other device claims or claimed the group; ``yields``: this one follows it."""
        if yields:
            self.was_primary = False
        if self.since is None:
            return
        self._two_owners(yields, now, out)
        if yields:
            out.send(self._peer, Resign(self._voter.group, self._voter.term))

    @property
    def _peer(self) -> DeviceId:
        return self._voter.others[0]

    def _two_owners(self, yields: bool, now: int, out: Outbox) -> None:
        """Both devices turned out to serve; told once per meeting."""
        if self.since is None or self.rival:
            return
        self.rival = True
        ms = (now - self.since) // 1_000_000
        end = "this one lets go" if yields else "the other one lets go"
        text = f"two devices held the VIPs, for up to {ms} ms: {end}"
        out.do(Event("two-owners", self._voter.group, text, self._voter.term, self._voter.me))

    # Answers

    def _probe(
        self, arbiter: str | None, vips: tuple[str, ...], holding: bool, now: int, out: Outbox
    ) -> None:
        patience = self._voter.timing.interval // 2
        # A report asks for the next round at once; without one it is late.
        self.ask_next = now + (patience if holding else 2 * patience)
        out.do(ProbeArbiter(self._voter.group, arbiter, vips, holding, patience))

    def on_probed(self, probed: Probed, now: int, out: Outbox) -> None:
        """A round of questions was answered, or not."""
        timing, group = self._voter.timing, self._group
        knew = self._arbiter is not None and now - self._arbiter <= timing.ask
        if probed.arbiter_answered:
            self._arbiter = max(self._arbiter or 0, probed.at)
        if group.role is Role.PRIMARY:
            self._on_probed_as_primary(probed, now, out)
        elif probed.vip_answered:
            self._quiet, self._free_at = 0, None
            self.ask_next = probed.at + timing.interval
        elif probed.asked_vips:
            gap = probed.at - self._quiet_until > timing.interval
            self._quiet = 1 if gap else self._quiet + 1
            self._quiet_until = now
            if self._reached(probed):
                self._free_at = probed.at + timing.interval // 2
            self.ask_next = now
        elif probed.arbiter_answered and not knew:
            self.ask_next = now

    def _reached(self, probed: Probed) -> bool:
        """Whether questions of this very round reached the segment, as far as can be told."""
        pair = self._voter.electorate.pair
        without = self.forced or pair is None or pair.arbiter is None
        return without or probed.arbiter_answered

    def _on_probed_as_primary(self, probed: Probed, now: int, out: Outbox) -> None:
        group = self._group
        if self.since is None:
            return
        if probed.vip_answered and not self._met:
            # Where the links are back as well, the claims of both are on their way now, and
            # decide: by the one and the other rule, both devices could let go.
            self._met = True
            self.ask_next = now + group.timing.interval // 4
        elif probed.vip_answered:
            self._two_owners(True, now, out)
            group.step_down(group.timing.interval, now, out)
        elif probed.arbiter_answered and now - probed.at <= group.timing.fresh:
            self._met = False
            self._go_on(probed.at, now, out)
            self.ask_next = self._next_beat(now)

    def forget(self) -> None:
        """Evidence about the VIPs is void: this process was deaf, or things have changed."""
        self._quiet, self._free_at = 0, None
