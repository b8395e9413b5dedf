"""What happens to the devices and gateways of a Site of :mod:`lives`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import create_token
from protocol.errors import HalbError
from tests.soak.edits import Edits
from tests.soak.stage import Stage

STOP_S = 20.0
_ILL = """table inet ill { chain in { type filter hook input priority 0;
 tcp flags & (syn | ack) == syn reject with tcp reset; }; }
"""
"""Of a gateway that takes no new connection, and goes on with those that it has."""
_POWER_CUT = (
    ("nft", "flush", "ruleset"),
    ("ip", "xfrm", "policy", "flush"),
    ("conntrack", "-F"),
    ("conntrack", "-F", "-f", "ipv6"),
)


class Mishaps(Edits):
    """Carries them out, each by its name."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.afflicted: dict[str, str] = {}
        """Gateways that fail, and how."""

    def _which(self, word: str) -> str:
        """A device by its name; or who is ``primary``, or the first that is an ``other``."""
        if word not in ("primary", "other"):
            return word
        with suppress(HalbError):
            self._site.wait("somebody is primary", lambda: bool(self._site.primary()), 5.0)
        try:
            primary = self._site.primary()
        except HalbError:
            primary = self._stage.carriers[0]
        if word == "primary":
            return primary
        others = [n for n in self._stage.carriers if n != primary and n not in self.away]
        return others[0] if others else primary

    def _fails(self, what: str, word: str, undo: Callable[[str], None]) -> str:
        """Note who could take over from a device that is about to fail."""
        device = self._which(word)
        try:
            told = self._site.virtual_server(self._site.primary())["devices"]
        except HalbError:
            told = []
        fit = [d["name"] for d in told if d["eligible"] and d["name"] not in (device, *self.away)]
        self._note("act", "failure", device, f"{what}; in step: {' '.join(fit)}")
        self.away[device] = lambda: undo(device)
        return device

    def crash(self, word: str) -> None:
        self._site.crash(self._fails("crash", word, self._site.start))

    def kill(self, word: str) -> None:
        device = self._fails("kill", word, self._start)
        self._site.service(device).kill()

    def reboot(self, word: str) -> None:
        """As a crash, after which the kernel knows nothing."""
        device = self._fails("reboot", word, self._boot)
        self._site.crash(device)
        for command in _POWER_CUT:
            self._site.network.run(device, *command)

    def _boot(self, device: str) -> None:
        self._start(device)
        self._site.network.plug(device)

    def stop(self, word: str) -> None:
        device = self._fails("stop", word, self._start)
        self._site.service(device).terminate(STOP_S)

    def hang(self, word: str) -> None:
        self._site.freeze(self._fails("hang", word, self._site.thaw))

    def unplug(self, word: str) -> None:
        self._site.network.unplug(self._fails("unplug", word, self._site.network.plug))

    def isolate(self, word: str) -> None:
        """A device loses all others; clients and gateways see it."""
        device = self._fails("isolate", word, self._heal)
        for other in self._stage.devices:
            if other != device:
                self._site.cut(device, other)

    def _heal(self, device: str) -> None:
        for other in self._stage.devices:
            if other != device:
                self._site.network.heal(device, other)

    def _start(self, device: str) -> None:
        self._site.start_agent(device)
        self._site.wait_answers(device)

    def back(self) -> None:
        """What devices fail by ends."""
        for device, undo in list(self.away.items()):
            undo()
            del self.away[device]

    def restart_all(self) -> None:
        """All agents are killed at once, and started."""
        self._fails("kill", "primary", lambda device: None)
        self.away.clear()
        for device in self._stage.devices:
            self._site.service(device).kill()
        for device in self._stage.devices:
            self._site.start_agent(device)
        for device in self._stage.devices:
            self._site.wait_answers(device)

    def promote(self, word: str) -> None:
        device = self._which(word)
        outcome = self._site.halbctl(device, "promote", VIRTUAL_SERVER, "--to", device)
        if outcome.code:
            self._note("act", "refused", "promote", outcome.errors.strip())

    def drain_device(self, word: str) -> None:
        self._command("device", "drain", self._which(word))

    def undrain_devices(self) -> None:
        for device in self._stage.carriers:
            self._command("device", "undrain", device)

    def leave(self, word: str) -> None:
        """A device leaves the Site, and joins again."""
        device = self._which(word)
        outcome = self._site.halbctl(device, "leave", "--yes")
        if outcome.code:
            self._note("act", "refused", "leave", outcome.errors.strip())
            return
        other = next(n for n in self._stage.devices if n != device)
        token = create_token(self._site, other)
        joined = self._site.halbctl(device, "join", token)
        if joined.code:
            self._note("act", "refused", "join", joined.errors.strip())
        self._reread(other)

    def flush(self, word: str) -> None:
        """All rules of a device are lost; its agent makes them anew."""
        self._site.network.run(self._which(word), "nft", "flush", "ruleset")

    # Gateways.

    def dies(self, gateway: str) -> None:
        self.afflicted[gateway] = "dies"
        self._site.network.unplug(gateway)
        self._stage.kill_gateway(gateway)

    def unreached(self, gateway: str) -> None:
        self.afflicted[gateway] = "unreached"
        self._site.network.unplug(gateway)

    def ill(self, gateway: str) -> None:
        self.afflicted[gateway] = "ill"
        self._site.network.run(gateway, "nft", "-f", "-", text=_ILL)

    def recovers(self, gateway: str) -> None:
        how = self.afflicted.pop(gateway)
        if how == "ill":
            self._site.network.run(gateway, "nft", "delete", "table", "inet", "ill")
            return
        self._site.network.plug(gateway)
        if how == "dies":
            self._stage.start_gateway(gateway)
