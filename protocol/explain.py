"""Why a Virtual Server is where it is, and what would move it.

Each device reports its own part (:func:`report_of`); :func:`explain` puts the
reports of all into words. Both are pure. Reasons are those that the protocol
itself goes by, unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.contact import Contact
from protocol.durations import say, utc
from protocol.group import Group
from protocol.ids import DeviceId
from protocol.insight import ElectionTold, ExplainedDevice, Explanation
from protocol.messages import Election, GroupReport
from protocol.moves import why_not
from protocol.objects import VirtualServer
from protocol.overlay import MESH
from protocol.preference import healthy, usable
from protocol.quorum import majority
from protocol.roster import Roster
from protocol.timing import MILLISECOND, Timing
from protocol.told import by_server
from protocol.view import Role


def report_of(
    group: Group,
    config: Config,
    roster: Roster,
    contacts: Mapping[DeviceId, Contact],
    now: int,
) -> GroupReport:
    """One device's part in a group, as it knows it itself."""
    voter, lease, server = group.voter, group.lease, config.virtual_servers.get(group.group)
    primary = group.role is Role.PRIMARY
    others = [d for d in voter.electorate.carriers if d != group.me]
    refusals = [(d, why_not(group, d, contacts, now)) for d in others]
    refusals.append((group.me, group.outdated))
    return GroupReport(
        role=group.role.value,
        term=voter.term,
        leader=voter.leader,
        heard_ms=max(0, now - voter.heard) // MILLISECOND,
        voted_for=voter.ballot.vote,
        promised_to=voter.promised_to if voter.promise_until > now else None,
        promise_ms=max(0, voter.promise_until - now) // MILLISECOND,
        confirmed_ms=max(0, now - lease.confirmed) // MILLISECOND if primary else None,
        step_down_ms=max(0, lease.ends - now) // MILLISECOND if primary else None,
        unfit=_why_unfit(group, now),
        late=group.candidacy.late,
        damped_ms=group.damping.left(now) // MILLISECOND,
        stored=config.revision,
        applied=roster.applied,
        gateways=healthy(server, by_server(roster.gateways_down)) if server else 0,
        refusals=tuple((d, why) for d, why in refusals if why) if primary else (),
        election=_election(group, now),
    )


def _why_unfit(group: Group, now: int) -> str:
    voter = group.voter
    if group.stopping:
        return "is stopping"
    starting = "has just started" if group.role is Role.WAITING else ""
    return voter.lacks or group.unfit or starting or group.alone.waits_for(now)


def _election(group: Group, now: int) -> Election | None:
    evidence = group.candidacy.evidence
    if not evidence.cause:
        return None
    return Election(
        cause=evidence.cause,
        term=evidence.term,
        ago_ms=(now - evidence.began) // MILLISECOND,
        predecessor=evidence.predecessor,
        answers=tuple(sorted(evidence.answers.items())),
        votes=tuple(sorted(evidence.votes.items())),
    )


Reports = Mapping[DeviceId, GroupReport | None]
"""Per device that answered; None: it has no part in the group."""


class _Case:
    """One Virtual Server and what all devices said of it."""

    def __init__(self, config: Config, server: VirtualServer, reports: Reports) -> None:
        self.config, self.server = config, server
        self.reports = {d: r for d, r in reports.items() if r is not None}
        assignment = config.assignments.get(server.uid)
        self.voters = assignment.voters if assignment else ()
        self.carriers = tuple(d for d in carriers_of(config, server) if d in self.voters)
        self.alone = bool(assignment and assignment.lone) and set(self.voters) > set(self.reports)
        """One of two serves, as the operator chose, without an answer of the other."""
        leading = {d: r for d, r in self.reports.items() if r.role == Role.PRIMARY}
        self.primary = max(leading, key=lambda d: leading[d].term, default=None)
        promise = Timing.of(server.profile).promise // MILLISECOND
        self.hearing = {
            d: r
            for d, r in self.reports.items()
            if r.leader and r.leader not in self.reports and r.heard_ms < promise
        }
        """Devices that hear a primary which did not answer."""

    @property
    def majority(self) -> int:
        """How many voters elect a primary."""
        return 1 if self.alone else majority(self.voters)

    @property
    def voters_heard(self) -> list[DeviceId]:
        """The voters that answered."""
        return [d for d in self.voters if d in self.reports]

    @property
    def silent_primary(self) -> DeviceId | None:
        """The primary, where it serves but did not answer."""
        if self.primary or not self.hearing:
            return None
        return max(self.hearing.values(), key=lambda report: report.term).leader

    def name(self, device: DeviceId) -> str:
        known = self.config.devices.get(device)
        return known.name if known else device

    def names(self, devices: list[DeviceId]) -> str:
        return ", ".join(map(self.name, devices))

    def ranked(self) -> list[DeviceId]:
        """Carriers, best first: those that are late last."""
        late = {d for d, r in self.reports.items() if r.late}
        return sorted(self.carriers, key=lambda d: (d in late, self.carriers.index(d)))

    def lacks(self, device: DeviceId) -> str:
        """Why ``device`` could not be primary; empty if it could."""
        known = self.config.devices.get(device)
        if device not in self.carriers and device in self.voters:
            return "only votes" if device in self.reports else "only votes; did not answer"
        if device not in self.carriers:
            return "is no voter of it yet"
        if known is not None and known.drained:
            return "is drained"
        found = self.reports.get(device)
        if found is None:
            return "did not answer"
        if found.unfit:
            return found.unfit
        told = self.reports[self.primary].refusals if self.primary else ()
        return dict(told).get(device, "")


def asked_about(config: Config, server: VirtualServer) -> tuple[DeviceId, ...]:
    """The devices whose reports explain a Virtual Server; in a small Site all."""
    if len(config.devices) <= MESH:
        return tuple(config.devices)
    assignment = config.assignments.get(server.uid)
    parties = (*assignment.voters, *assignment.former) if assignment else ()
    return tuple(dict.fromkeys((*parties, *carriers_of(config, server))))


def explain(config: Config, server: VirtualServer, me: DeviceId, reports: Reports) -> Explanation:
    """What the reports of the devices come to, in words and numbers."""
    case = _Case(config, server, reports)
    report = case.reports.get(case.primary) if case.primary else None
    primary = case.primary or case.silent_primary
    return Explanation(
        virtual_server=server.name,
        device=case.name(me),
        primary=case.name(primary) if primary else None,
        term=max((r.term for r in case.reports.values()), default=0),
        why=_why(case, report),
        election=_told(case, report.election if report else None),
        confirmed_ms=_or_unknown(report.confirmed_ms if report else None),
        step_down_ms=_or_unknown(report.step_down_ms if report else None),
        voters=len(case.voters),
        majority=case.majority,
        devices=tuple(_device(case, device) for device in _in_order(case)),
        moves=tuple(_moves(case)),
    )


def _or_unknown(number: int | None) -> int:
    return -1 if number is None else number


def _in_order(case: _Case) -> list[DeviceId]:
    ranked = case.ranked()
    return [*ranked, *(d for d in case.voters if d not in ranked)]


def _device(case: _Case, device: DeviceId) -> ExplainedDevice:
    found, ranked = case.reports.get(device), case.ranked()
    lacks = case.lacks(device)
    witness = device not in case.carriers and device != case.primary
    role = found.role if found else "unknown"
    return ExplainedDevice(
        name=case.name(device),
        role="witness" if witness and role == Role.SECONDARY else role,
        rank=ranked.index(device) + 1 if device in ranked else 0,
        lacks=lacks,
        late=found.late if found else "",
        term=found.term if found else 0,
        voted_for=case.name(found.voted_for) if found and found.voted_for else "",
        promised_to=case.name(found.promised_to) if found and found.promised_to else "",
        promise_ms=found.promise_ms if found else 0,
        heard_ms=found.heard_ms if found else -1,
        gateways=found.gateways if found and not witness else -1,
        revision=str(found.stored) if found else "",
    )


def _told(case: _Case, election: Election | None) -> ElectionTold | None:
    if election is None:
        return None
    return ElectionTold(
        cause=election.cause,
        term=election.term,
        ago_s=election.ago_ms // 1000,
        predecessor=case.name(election.predecessor) if election.predecessor else "",
        answers={case.name(d): reason or "would vote" for d, reason in election.answers},
        votes={case.name(d): reason or "voted for it" for d, reason in election.votes},
    )


def _why(case: _Case, report: GroupReport | None) -> str:
    if case.primary is None or report is None:
        return _why_nobody(case)
    name = case.name(case.primary)
    election = report.election
    if election is None or election.term != report.term:
        return f"{name} is primary in term {report.term}"
    yes = [case.name(case.primary), *(case.name(d) for d, no in election.votes if not no)]
    return (
        f"{name} was elected in term {report.term} because {election.cause}, with the votes of"
        f" {', '.join(yes)}; it stays because nothing moves it"
    )


def _why_nobody(case: _Case) -> str:
    if case.silent_primary:
        name, who = case.name(case.silent_primary), case.names(list(case.hearing))
        return f"{name} is primary, for {who} hear it; it did not answer, so more is not known"
    answered, needed = case.voters_heard, case.majority
    if len(answered) < needed:
        return (
            f"nobody is primary: {len(answered)} of {len(case.voters)} voters answered,"
            f" {needed} are needed"
        )
    if case.server.frozen:
        return "nobody is primary: it is frozen, and its last primary is not there"
    if all(case.lacks(d) for d in case.carriers):
        return "nobody is primary: no device that may carry it can"
    return "nobody is primary: an election is under way"


def _moves(case: _Case) -> Iterator[str]:
    """Which change would move it, one sentence each."""
    server, primary = case.server, case.primary
    if server.frozen:
        there = primary or case.silent_primary
        moves = f"`halbctl promote {server.name}`" if there else "its last primary, once it is back"
        yield f"frozen: nothing but {moves}, until `halbctl vs unfreeze {server.name}`"
        return
    others = [d for d in case.ranked() if d != primary and not case.lacks(d)]
    if case.silent_primary:
        return
    if primary is None:
        missing = case.majority - len(case.voters_heard)
        if missing > 0:
            silent = case.names([d for d in case.voters if d not in case.reports])
            yield f"it needs {missing} more of its voters: {silent} did not answer"
        elif others:
            yield f"{case.name(others[0])} would stand: it lacks nothing"
        else:
            yield f"nobody can take it: {_shortcomings(case)}"
        return
    if not others:
        yield f"nobody could take over: {_shortcomings(case)}"
        return
    report = case.reports[primary]
    timing = Timing.of(server.profile)
    takeover = (timing.promise + timing.stagger) // MILLISECOND
    yield f"if {case.name(primary)} fails, {case.name(others[0])} takes over after {takeover} ms"
    yield f"`halbctl promote {server.name}` moves it to {case.name(others[0])}"
    yield from _preferences(case, primary, others)
    if planned := case.config.planned_moves.get(server.uid):
        to = "the next in rank" if planned.to is None else case.name(planned.to)
        yield f"a move to {to} is planned, at {utc(planned.at)}"
    if report.damped_ms:
        yield f"damped: no device moves it on its own for {say(report.damped_ms // 1000)}"


def _preferences(case: _Case, primary: DeviceId, others: list[DeviceId]) -> Iterator[str]:
    server, ranked, report = case.server, case.ranked(), case.reports[primary]
    if primary not in ranked:
        yield f"{case.name(primary)} may carry it no more: {case.name(others[0])} is to take it"
        return
    better = [d for d in others if ranked.index(d) < ranked.index(primary)]
    if better and server.preempt:
        after = say(server.preempt)
        yield f"{case.name(better[0])} ranks better: it gets it once fit for {after}"
    elif better:
        yield f"{case.name(better[0])} ranks better, but `preempt` is off: it stays"
    seeing = [d for d in others if case.reports[d].gateways > report.gateways]
    for device in seeing[:1]:
        count = f"{case.reports[device].gateways} of {len(usable(server))}"
        yield f"{case.name(device)} sees {count} gateways, {case.name(primary)} {report.gateways}"


def _shortcomings(case: _Case) -> str:
    found = (f"{case.name(d)} {case.lacks(d)}" for d in case.carriers if d != case.primary)
    return "; ".join(found) or "no other device may carry it"
