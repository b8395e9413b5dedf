"""What the control API's requests do: each to a result, or a reasoned refusal."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from agent.conflicts import shown
from agent.doctor import examine
from agent.errands import patience
from agent.estranged import refuse_removed
from agent.leaving import refuse_stranding
from agent.promoting import promote
from agent.relieving import relieve, runs
from agent.survey import survey
from agent.telling import counters, metrics
from agent.views import refuse_used
from protocol import api
from protocol.admission import found_site
from protocol.changes import (
    AdmitDevice,
    Change,
    PutToken,
    RemoveDevice,
    RemoveGateway,
    ReplaceDevice,
    foreseen,
)
from protocol.config import Config
from protocol.contacts import GetContacts, GetOperators, contacts_of, operators_of
from protocol.coordinator import NOTHING_TO_CHANGE
from protocol.diagnosis import Diagnosis
from protocol.effects import Force, Outcome, Propose, Recover
from protocol.errors import HalbError, InvalidInput, Refused
from protocol.explain import asked_about, explain
from protocol.hearing import matrix
from protocol.ids import Revision, check_name
from protocol.insight import Explanation, Matrix, Traced
from protocol.joining import JoinReply, JoinRequest, config_of, elsewhere, membership, welcome
from protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN
from protocol.rendering import render_site
from protocol.timing import SECOND
from protocol.token import JoinToken, digest_of
from protocol.virtual_servers import server_named

if TYPE_CHECKING:
    from agent.agent import Agent

MAX_TTL_S = 30 * 24 * 3600
MAX_USES = 1000
MIN_WATCH_S = 0.1
JOIN_TIMEOUT_S = 15.0
RECOVER_S = 18.0
TOKEN_S = 5.0
"""Seconds that a client waits for a token, as for other changes."""
GRACE_S = 0.5
"""Seconds beyond a request's time in which the core says why it failed."""
_CHANGES = api.PutChange | api.CreateToken | api.PromoteTo | api.Failover | api.Recover


class Operations:
    """The requests of operators, carried out by an :class:`agent.agent.Agent`."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._entering = asyncio.Lock()

    async def carry_out(  # noqa: C901 - one case per request is the point
        self, request: api.Request
    ) -> api.Result:
        """The result of any request but a watch; raises HalbError with the reason."""
        match request.op:
            case api.GetVersion():
                return self._version()
            case api.Init(site):
                return await self._init(site)
            case api.Join(token):
                return await self._join(token)
            case api.GetHistory(name, limit):
                return self._history(name, limit)
            case api.GetDoctor():
                return await self._examine()
            case _:
                self._require_site()
        if isinstance(request.op, _CHANGES):
            refuse_removed(self.agent.removed_from)
        match request.op:
            case api.GetStatus():
                return await self.status()
            case api.Leave(force):
                return await self._leave(request.id, force)
            case api.CreateToken():
                return await self._create_token(request.id, request.op)
            case api.ListTokens():
                return self._tokens()
            case api.PutChange():
                return await self._change(request.id, request.op)
            case api.Export():
                return await self._export()
            case api.Explain(name, wait):
                return await self._explain(name, wait)
            case api.GetCounters():
                return await counters(self.agent)
            case api.GetMetrics():
                return api.Metrics(await metrics(self.agent, await self.status()))
            case api.Trace():
                return await self._trace(request.op)
            case api.GetMatrix(wait):
                return await self._matrix(wait)
            case api.GetGateways(name, wait):
                return await survey(self.agent, name, wait)
            case GetOperators():
                return operators_of(self.agent.config)
            case GetContacts():
                return contacts_of(self.agent.config)
            case api.GetConflicts():
                return api.Conflicts(shown(self.agent.conflicts, self.agent.config))
            case api.Failover():
                return await self._failover(request.id, request.op)
            case api.Recover():
                return await self._recover(request.id, request.op)
            case api.PromoteTo():
                return await promote(self.agent, request.id, request.op)
            case _:
                raise InvalidInput(f"request {type(request.op).__name__} is not known here")

    async def _examine(self) -> Diagnosis:
        agent = self.agent
        status = await self.status() if agent.in_site else None
        interface = "" if agent.settings.witness else agent.settings.interface
        devices = agent.config.devices
        told = await agent.inquiries.ask(devices) if agent.in_site else {}
        mtus = {devices[d].name: report.mtu for d, report in told.items() if report.mtu}
        links = told[agent.device].links if told else ()
        return await examine(agent.name, agent.device, interface, agent.config, status, mtus, links)

    def _require_site(self) -> None:
        if not self.agent.in_site:
            raise Refused(
                f"device {self.agent.name} belongs to no Site yet",
                "Found one with `halbctl init SITE`, or join one with `halbctl join TOKEN`.",
            )

    # Reading

    async def status(self) -> api.Status:
        """The Site as seen from here."""
        counts = await self.agent.connections()
        began = time.perf_counter_ns()
        status = await self.agent.status(counts)
        took = (time.perf_counter_ns() - began) // 1_000
        return msgspec.structs.replace(status, took_us=took)

    async def watch(self, interval: float) -> AsyncIterator[api.Status]:
        """Status now, on each change, and at least each ``interval`` seconds, for ever."""
        interval = max(interval, MIN_WATCH_S)
        while True:
            self._require_site()
            yield await self.status()
            await self.agent.news.wait_for_change(interval)

    def _history(self, name: str | None, limit: int) -> api.History:
        entries = self.agent.history.query(name, limit)
        if name is not None and not entries:
            server_named(self.agent.config, name)
        return api.History(entries)

    async def _explain(self, name: str, wait: float) -> Explanation:
        agent = self.agent
        server = server_named(agent.config, name)
        asked = asked_about(agent.config, server)
        found = await agent.inquiries.ask(asked, server.uid, wait)
        reports = {device: report.group for device, report in found.items()}
        return explain(agent.config, server, agent.device, reports)

    async def _trace(self, op: api.Trace) -> Traced:
        server = server_named(self.agent.config, op.virtual_server)
        question, answer = await self.agent.carrier.trace(op, server)
        gateway = answer.gateway
        client = f"[{question.client}]" if question.version == 6 else question.client
        return Traced(
            virtual_server=server.name,
            device=self.agent.name,
            primary=self.agent.primary_name(server.uid),
            client=f"{client}:{question.port}",
            vip=question.vip,
            listener=question.listener.key,
            gateway=gateway.name if gateway else None,
            address=gateway.address if gateway else None,
            how=answer.how,
            slot=answer.slot,
            why=answer.why,
            connection_vip=answer.vip,
        )

    async def _matrix(self, wait: float) -> Matrix:
        agent = self.agent
        found = await agent.inquiries.ask(agent.config.devices, None, wait)
        reports = {device: report.links for device, report in found.items()}
        return matrix(agent.config, agent.device, reports)

    def _version(self) -> api.VersionInfo:
        site = self.agent.config.site
        return api.VersionInfo(
            agent=self.agent.version,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            device=self.agent.name,
            id=self.agent.device,
            site=site.name if site else "",
        )

    async def _export(self) -> api.Exported:
        config = self.agent.config
        return api.Exported(await asyncio.to_thread(render_site, config), str(config.revision))

    def _tokens(self) -> api.Tokens:
        kept = sorted(self.agent.config.tokens.values(), key=lambda t: t.expires_at)
        return api.Tokens(tuple(api.TokenInfo(t.id, t.expires_at, t.uses_left, t.by) for t in kept))

    # Writing

    async def _change(self, request: str, op: api.PutChange) -> api.Done:
        if_revision, came = api.parse_revision(op.if_revision), time.monotonic()
        config = self.agent.config
        if not op.force:
            self._refuse_running(op.change)
            if isinstance(op.change, RemoveGateway) and not op.local:
                refuse_used(await survey(self.agent, op.change.virtual_server), op.change.gateway)
        await self.agent.precheck(op.change)
        if op.dry_run:
            lines = await asyncio.to_thread(
                foreseen, config, op.change, int(time.time()), lambda: secrets.token_hex(8),
                emptied=isinstance(op.change, RemoveGateway) and not op.local,
            )  # fmt: skip
            detail = "\n".join(lines) or NOTHING_TO_CHANGE
            return api.Done(detail, str(config.revision), changed=bool(lines))
        until, stayed = came + patience(op.timeout), []
        # Else it is about to be refused.
        current = if_revision is None or config.says_as_at(if_revision)
        if isinstance(op.change, RemoveDevice | ReplaceDevice) and current and not op.local:
            stayed = await relieve(self.agent, op.change, until - time.monotonic())
        left = max(0.0, until - time.monotonic())
        outcome = await self._propose(request, op.change, if_revision, left, local=op.local)
        changed = outcome.detail != NOTHING_TO_CHANGE
        detail = "\n".join((outcome.detail, *stayed))
        return api.Done(detail, str(outcome.revision or ""), changed)

    def _refuse_running(self, change: Change) -> None:
        """A device that runs leaves by itself, handing over; it is not cut off by mistake."""
        if not isinstance(change, RemoveDevice | ReplaceDevice):
            return
        device = self.agent.config.device_named(change.device)
        if device is not None and runs(self.agent, device.id):
            remedy = "Use --force: it hands over first, and is cut off then."
            if isinstance(change, RemoveDevice):
                remedy = f"Run `halbctl leave` on it, after which it can join anew. Or: {remedy}"
            raise Refused(f"device {device.name!r} runs", remedy)

    async def _propose(
        self,
        request: str,
        change: Change,
        if_revision: Revision | None,
        seconds: float,
        *,
        local: bool = False,
    ) -> Outcome:
        future = self.agent.errands.begin(request)
        ns = int(seconds * SECOND)
        self.agent.deliver(Propose(request, change, if_revision, int(time.time()), ns, local))
        # The core's own answer says more than that time is up.
        return await self.agent.errands.wait(future, seconds + GRACE_S)

    async def _failover(self, request: str, op: api.Failover) -> api.Done:
        future = self.agent.errands.begin(request)
        self.agent.deliver(Force(request, op.virtual_server))
        outcome = await self.agent.errands.wait(future, patience(op.timeout))
        changed = outcome.detail != "is primary already"
        text = "serves" if changed else "is primary of"
        after = " without the other device" if changed else " already"
        return api.Done(f"{self.agent.name} {text} {op.virtual_server}{after}", changed=changed)

    async def _recover(self, request: str, op: api.Recover) -> api.Done:
        site = self.agent.config.site
        if site is None or site.name != op.site:
            raise InvalidInput(
                f"this device belongs to Site {site.name if site else ''!r}, not {op.site!r}",
                "Nothing was changed.",
            )
        future = self.agent.errands.begin(request)
        self.agent.deliver(Recover(request, op.devices, int(time.time())))
        outcome = await self.agent.errands.wait(future, RECOVER_S)
        return api.Done(outcome.detail, str(outcome.revision or ""))

    async def _create_token(self, request: str, op: api.CreateToken) -> api.TokenCreated:
        if not 1 <= op.ttl <= MAX_TTL_S:
            raise InvalidInput(f"ttl {op.ttl} s is out of range", f"Use 1 to {MAX_TTL_S} seconds.")
        if not 1 <= op.uses <= MAX_USES:
            raise InvalidInput(f"{op.uses} uses are out of range", f"Use 1 to {MAX_USES}.")
        token_id, secret = secrets.token_hex(8), secrets.token_hex(16)
        expires_at = int(time.time()) + op.ttl
        put = PutToken(token_id, digest_of(secret), expires_at, op.uses, op.by, op.by_key)
        await self._propose(request, put, None, patience(TOKEN_S))
        text = self._token(token_id, secret, expires_at).encode()
        return api.TokenCreated(text, token_id, expires_at, op.uses)

    def _token(self, token_id: str, secret: str, expires_at: int) -> JoinToken:
        """A token that leads to this device first, then to the others."""
        config = self.agent.config
        assert config.site is not None
        devices = sorted(config.devices.values(), key=lambda d: d.id != self.agent.device)
        members = tuple((d.public_key, d.addresses) for d in devices[:7])
        return JoinToken(config.site.id, config.site.name, token_id, secret, members, expires_at)

    # Founding, joining, leaving

    async def _init(self, site: str) -> api.Done:
        async with self._entering:
            self._require_no_site()
            check_name("Site", site)
            config = found_site(site, secrets.token_hex(8), self.agent.as_device())
            await self._adopt(config)
            return api.Done(f"Site {site} founded, with {self.agent.name} as its first device")

    async def _join(self, text: str) -> api.Done:
        token = JoinToken.decode(text)
        async with self._entering:
            self._require_no_site()
            self._require_clock_before(token)
            device = self.agent.as_device()
            request = JoinRequest(token.id, token.secret, device, site=token.site)
            reply = await self.agent.ask_to_join(token, request, JOIN_TIMEOUT_S)
            await self._adopt(config_of(reply))
            return api.Done(f"{self.agent.name} joined Site {token.site_name}")

    def _require_clock_before(self, token: JoinToken) -> None:
        if time.time() >= token.expires_at:
            raise Refused(
                f"the token expired {int(time.time() - token.expires_at)} s ago",
                "Make a new one on a device of the Site with `halbctl token create`.",
            )

    def _require_no_site(self) -> None:
        site = self.agent.config.site
        if site is not None:
            raise Refused(
                f"device {self.agent.name} belongs to Site {site.name} already",
                "Leave it first with `halbctl leave`.",
            )

    async def _adopt(self, config: Config) -> None:
        self.agent.enter_site(config)
        # Only with a coordinator can the next command change anything.
        await self.agent.news.wait_until(
            lambda: self.agent.in_site and self.agent.view().coordinator is not None, 10.0
        )

    async def admit(self, request: JoinRequest) -> JoinReply:
        """Another device asks to join, with a token: answered by a member of the Site."""
        if request.site and not self._belongs_to(request.site):
            return elsewhere(self.agent.name)
        self._require_site()
        if request.asks_membership_of:
            return membership(self.agent.config, request)
        change = AdmitDevice(request.token_id, request.secret, request.device)
        await self._propose(f"join-{secrets.token_hex(8)}", change, None, 6.0)
        await self.agent.news.wait_until(
            lambda: request.device.id in self.agent.config.devices, 5.0
        )
        return welcome(self.agent.config)

    def _belongs_to(self, site: str) -> bool:
        ours = self.agent.config.site
        return ours is not None and ours.id == site and not self.agent.removed_from

    async def _leave(self, request: str, force: bool) -> api.Done:
        async with self._entering:
            config = self.agent.config
            site = config.site
            assert site is not None
            alone = len(config.devices) == 1 or bool(self.agent.removed_from)
            if not (alone or force):
                refuse_stranding(config, self.agent.view(), self.agent.device, int(time.time()))
            try:
                await self.agent.step_aside()
                if not alone:
                    await self._propose(request, RemoveDevice(self.agent.name), None, 6.0)
            except HalbError:  # also where it is in doubt: who is removed is told so
                if not force:
                    self.agent.come_back()
                    raise
            await self.agent.forget_site()
            return api.Done(f"{self.agent.name} left Site {site.name}")
