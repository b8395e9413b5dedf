"""Where requests come in: newcomers, operators on the host, operators on the network."""

from __future__ import annotations

from agent.control import ControlServer
from agent.joining import JoinServer
from agent.keys import KeyPair
from agent.operations import Operations
from agent.remote import RemoteServer
from agent.settings import Settings
from protocol.config import Config


class Doors:
    """All that lead to one agent's :class:`agent.operations.Operations`."""

    def __init__(self, settings: Settings, keys: KeyPair, operations: Operations) -> None:
        carry_out, watch = operations.carry_out, operations.watch
        self._joins = JoinServer(settings.addresses, keys, operations.admit)
        self._remote = RemoteServer(settings.addresses, keys, carry_out, watch)
        self._control = ControlServer(settings.control, carry_out, watch)

    async def listen(self) -> None:
        """Take the ports on the network; raises HalbError where that cannot be."""
        await self._joins.start()
        await self._remote.start()

    async def open(self) -> None:
        """The agent works: let those on its host in, who wait for that."""
        await self._control.start()

    def on_config(self, config: Config) -> None:
        """Let in the operators that ``config`` names, and no others."""
        self._remote.let_in(config.operators.values())

    async def close(self) -> None:
        """Answer nobody any more."""
        await self._control.close()
        await self._remote.close()
        await self._joins.close()
