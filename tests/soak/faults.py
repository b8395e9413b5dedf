"""What fails: devices, agents, cables, gateways; by chance, and undone after a while."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from halbctl.lab.namespaces import SWITCH
from protocol.errors import HalbError, TimedOut
from tests.soak.chance import Kinds, drawn
from tests.soak.stage import Stage

STOP_S = 20.0
"""Within which an agent that is asked to end has ended."""
MENDED_S = 5.0
"""Within which tables that were lost are made anew."""
_TABLES = {
    "table inet halb", "table inet halb_count", "table inet halb_lease", "table netdev halb_lease",
    "table arp halb_lease", "table inet halb_door",
}  # fmt: skip
"""Those of a device that carries something."""
HOUR_S = 3600
Undo = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One that is in force."""

    until: float
    what: str
    subject: str
    undo: Undo
    cost: str = ""
    """The device that counts as faulty."""


class Nemesis:
    """Makes faults and takes them back."""

    def __init__(self, stage: Stage, random: Random) -> None:
        self._stage, self._site, self._random = stage, stage.site, random
        self.active: list[Fault] = []
        self.limit = 0
        """Devices that may be faulty at a time."""
        self._kinds: Kinds = [
            (5, self._crash),
            (5, self._hang),
            (5, self._kill),
            (3, self._stop),
            (3, self._unplug),
            (4, self._isolate),
            (3, self._cut),
            (3, self._cut_one_way),
            (2, self._flush),
            (4, self._gateway_dies),
            (2, self._gateway_unplugged),
            (3, self._clock),
        ]

    def step(self) -> None:
        """Undo what is over, then make one more fault."""
        self.undo(time.monotonic())
        drawn(self._random, self._kinds)()

    def undo(self, now: float) -> None:
        """Undo faults whose time is over."""
        for fault in [fault for fault in self.active if fault.until <= now]:
            self.active.remove(fault)
            fault.undo()
            self._stage.journal.note("act", f"end-{fault.what}", fault.subject)

    def heal(self) -> None:
        """Undo all of them."""
        self.undo(float("inf"))
        self._site.heal()

    def _spare(self) -> str | None:
        """A device that may fail now."""
        busy = {fault.cost for fault in self.active} - {""}
        free = [name for name in self._stage.devices if name not in busy]
        return self._random.choice(free) if len(busy) < self.limit and free else None

    def _begin(
        self, what: str, subject: str, seconds: float, act: Undo, undo: Undo, cost: str = ""
    ) -> None:
        self._stage.journal.note("act", what, subject, f"for {seconds:.2f} s")
        act()
        until = time.monotonic() + seconds
        self.active.append(Fault(until, what, subject, undo, cost))

    def _while(self, longest: float) -> float:
        """Mostly short: seconds, spread evenly by order of magnitude."""
        shortest = 0.1
        return float(shortest * (longest / shortest) ** self._random.random())

    def _start(self, device: str) -> None:
        self._site.start_agent(device)
        self._stage.ended.discard(device)

    def _end(self, device: str) -> None:
        self._stage.ended.add(device)
        self._site.service(device).kill()

    def _crash(self) -> None:
        if device := self._spare():

            def act() -> None:
                self._site.network.unplug(device)
                self._end(device)

            def undo() -> None:
                self._site.network.plug(device)
                self._start(device)

            self._begin("crash", device, self._while(15.0), act, undo, device)

    def _kill(self) -> None:
        if device := self._spare():
            seconds = self._while(10.0)
            self._begin(
                "kill", device, seconds,
                lambda: self._end(device), lambda: self._start(device), device,
            )  # fmt: skip

    def _stop(self) -> None:
        if device := self._spare():

            def act() -> None:
                self._stage.ended.add(device)
                try:
                    self._site.service(device).terminate(STOP_S)
                except TimedOut as error:
                    self._stage.journal.violation("clean stop", f"{device}: {error}")
                    self._end(device)

            seconds = self._while(10.0)
            self._begin("stop", device, seconds, act, lambda: self._start(device), device)

    def _hang(self) -> None:
        if device := self._spare():

            def act() -> None:
                self._stage.stopped.add(device)
                self._signal(device, signal.SIGSTOP)

            def undo() -> None:
                self._signal(device, signal.SIGCONT)
                self._stage.stopped.discard(device)

            self._begin("hang", device, self._while(15.0), act, undo, device)

    def _signal(self, device: str, number: signal.Signals) -> None:
        try:
            self._site.service(device).signal(number)
        except HalbError as error:
            self._stage.journal.violation("agent ended", str(error))

    def _unplug(self) -> None:
        if device := self._spare():
            network = self._site.network
            self._begin(
                "unplug", device, self._while(10.0),
                lambda: network.unplug(device), lambda: network.plug(device), device,
            )  # fmt: skip

    def _isolate(self) -> None:
        """It loses all other devices; clients and gateways see it."""
        if device := self._spare():
            others = [name for name in self._stage.devices if name != device]
            self._cutting("isolate", device, [(device, o) for o in others], both=True)

    def _cut(self) -> None:
        if device := self._spare():
            other = self._random.choice([n for n in self._stage.devices if n != device])
            self._cutting("cut", device, [(device, other)], both=True)

    def _cut_one_way(self) -> None:
        if device := self._spare():
            others = [name for name in self._stage.devices if name != device]
            some = self._random.sample(others, self._random.randint(1, len(others)))
            forth = self._random.random() < 0.5
            pairs = [(device, o) if forth else (o, device) for o in some]
            self._cutting("cut-one-way", device, pairs, both=False)

    def _cutting(self, what: str, device: str, pairs: list[tuple[str, str]], *, both: bool) -> None:
        if both:
            pairs = pairs + [(other, one) for one, other in pairs]
        elements = ", ".join(f'"p-{one}" . "p-{other}"' for one, other in pairs)

        def tell(verb: str) -> None:
            text = f"{verb} element bridge cuts pairs {{ {elements} }}\n"
            self._site.network.run(SWITCH, "nft", "-f", "-", text=text)

        def undo() -> None:
            tell("add")  # deleting what another fault's end took away would be an error
            tell("delete")

        self._begin(
            what, device, self._while(12.0), lambda: tell("add"), undo, device
        )  # fmt: skip

    def _flush(self) -> None:
        """All rules of a device are lost at once; its agent lives, and makes them anew."""
        busy = {fault.cost for fault in self.active}
        device = self._random.choice(self._stage.carriers)
        if device in busy or not self._site.answers(device):
            return
        self._stage.journal.note("act", "flush", device)
        network = self._site.network
        network.run(device, "nft", "flush", "ruleset")

        def mended() -> bool:
            listed = network.run(device, "nft", "list", "tables").splitlines()
            return set(listed) >= _TABLES

        try:
            self._site.wait(f"tables of {device} are back", mended, MENDED_S)
        except TimedOut as error:
            self._stage.journal.violation("rules lost", str(error))
        self._stage.journal.note("act", "end-flush", device)

    def _clock(self) -> None:
        """People's clock of a device is set by an hour, and back. Nothing may come of it."""
        taken = {fault.subject for fault in self.active if fault.what == "clock"}
        free = [name for name in self._stage.devices if name not in taken]
        if free:
            device, clocks = self._random.choice(free), self._stage.clocks
            hours = self._random.choice((-1, 1))
            self._begin(
                "clock", device, self._while(12.0),
                lambda: clocks.shift(device, hours * HOUR_S), lambda: clocks.shift(device, 0),
            )  # fmt: skip

    def _gateway(self) -> str | None:
        dead = {f.subject for f in self.active if f.what.startswith("gateway")}
        free = [name for name in self._stage.gateways if name not in dead]
        return self._random.choice(free) if len(dead) < len(self._stage.gateways) // 2 else None

    def _gateway_dies(self) -> None:
        if gateway := self._gateway():

            def act() -> None:
                self._site.network.unplug(gateway)
                self._stage.kill_gateway(gateway)

            def undo() -> None:
                self._site.network.plug(gateway)
                self._stage.start_gateway(gateway)

            self._begin("gateway-dead", gateway, self._while(12.0), act, undo)

    def _gateway_unplugged(self) -> None:
        if gateway := self._gateway():
            network = self._site.network
            self._begin(
                "gateway-unplugged", gateway, self._while(8.0),
                lambda: network.unplug(gateway), lambda: network.plug(gateway),
            )  # fmt: skip
