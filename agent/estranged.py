"""A device that nobody answers any more asks whether it still belongs to the Site.

Members drop a removed device from their allow-lists, so one that was away hears
nothing and could believe in an outage for ever. The door for joining is open to all; a
member answers there, over a connection pinned to its key, whether it knows
the device. One that heard of its removal in time has it in its own configuration.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.clock import next_round
from agent.joining import ask_member
from agent.keys import KeyPair
from agent.lasting import lasting
from protocol.config import Config
from protocol.effects import Input, Resume, Stop
from protocol.errors import HalbError, Refused
from protocol.joining import JoinRequest
from protocol.objects import Device
from protocol.view import NodeView, PeerState

SILENCE_S = 5.0
"""Seconds without any other device before it asks, and between two rounds of asking."""
ANSWER_S = 2.0

_log = logging.getLogger("halb.estranged")


def refuse_removed(site: str) -> None:
    """Raise Refused where a device was removed from ``site``, which is empty where it was not.

    One that took the members for lost would stand with a newer term than theirs, serve their
    VIPs beside them, and believe none of them again.
    """
    if site:
        raise Refused(
            f"this device was removed from Site {site}, which goes on without it",
            "Run `halbctl leave` here, then join again with a new token.",
        )


class Estranged:
    """Watches for loneliness; stops this device when a member says that the Site goes on
    without it, and has it take part again when a member speaks to it after all."""

    def __init__(
        self,
        keys: KeyPair,
        config: Callable[[], Config],
        view: Callable[[], NodeView],
        me: Callable[[], Device],
        deliver: Callable[[Input], None],
        changed: Callable[[], None],
    ) -> None:
        """``changed`` is called when :attr:`removed_from` is another one."""
        self._keys = keys
        self._config = config
        self._view = view
        self._me = me
        self._deliver = deliver
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._heard_from = ""
        """Name of the Site of which a member said so."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(lasting(self._watch), name="estranged")

    @property
    def removed_from(self) -> str:
        """Name of the Site that this device was removed from, if it was, as far as it knows."""
        config = self._config()
        if config.site is not None and self._me().id not in config.devices:
            return config.site.name
        return self._heard_from

    @property
    def note(self) -> str:
        """What the operator of this device has to know; empty: nothing."""
        if not (site := self.removed_from):
            return ""
        return (
            f"this device was removed from Site {site}: "
            "run `halbctl leave` here, then join again with a new token"
        )

    def forget(self) -> None:
        """The device has left that Site."""
        self._heard_from = ""

    async def _watch(self) -> None:
        lonely = False
        while True:
            await next_round(SILENCE_S)
            config = self._config()
            heard = any(p.state is PeerState.ALIVE for p in self._view().peers)
            if heard and self._heard_from:
                self._come_back()
            if config.site is None or heard or self._heard_from:
                lonely = False
            elif not lonely:
                lonely = True
            elif await self._removed(config):
                self._stop(config.site.name)

    def _stop(self, site: str) -> None:
        """The Site goes on without this device: hold nothing, and say so."""
        self._heard_from = site
        _log.error("%s", self.note)
        self._deliver(Stop())
        self._changed()

    def _come_back(self) -> None:
        """Members let only members hear them: whoever said otherwise was wrong."""
        _log.warning("a member of Site %s speaks to this device again", self.removed_from)
        self.forget()
        self._deliver(Resume())
        self._changed()

    async def _removed(self, config: Config) -> bool:
        """Whether a member that can be reached does not know this device any more."""
        me, site = self._me(), config.site
        assert site is not None
        request = JoinRequest("", "", me, asks_membership_of=site.id, knows=config.revision)
        for other in config.devices.values():
            if other.id == me.id:
                continue
            for address in other.addresses:
                try:
                    reply = await ask_member(
                        other.public_key, address, request, self._keys, ANSWER_S
                    )
                except HalbError as error:
                    _log.debug("%s does not say whether we belong: %s", address, error.message)
                else:
                    return reply.member is False
        return False

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
