"""What happens to the Sites of :mod:`lives`, drawn from a seed: lines for :mod:`acts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from halbctl.lab.plan import DSR, MEMORY, MEMORYLESS, SNAT

HASHES = ("hash", "source-hash")
OTHERS = ("round-robin", "random", "least-connections")
BALANCES = {
    SNAT: ("hash", *OTHERS),
    MEMORY: OTHERS,
    MEMORYLESS: ("hash",),
    DSR: ("hash",),
}
"""How a Virtual Server of each mode begins."""
TURNS = {
    "sticky": ("0", "60"),
    "limit": ("0", "500"),
    "slow_start": ("0", "20"),
    "port": ("same", "other"),
    "vip": ("less", "more"),
    "mac": ("no", "auto"),
    "crowd": ("goes", "comes"),
    "preempt": ("never", "3s"),
    "profile": ("normal", "fast"),
}
"""What is set to and fro, and the words for it; it begins as the first says."""
LENGTH = (2, 5)
"""Acts between two looks at everything."""
SPARE = "gw5"


class Course:
    """One history: the same from the same seed."""

    def __init__(self, seed: int, mode: str, carriers: list[str]) -> None:
        self._random = random = Random(seed)
        self._mode, self._carriers = mode, carriers
        self.balance = random.choice(BALANCES[mode])
        self._forwarding = mode.partition("-")[0]
        self._present = {"gw1", "gw2", "gw3", "gw4"}
        self._absent = {SPARE}
        self._drained: set[str] = set()
        self._backups: set[str] = set()
        self._afflicted: set[str] = set()
        self._away = False
        self._words: dict[str, str] = {}
        """What is set by each act that has two words: the last of them."""

    def rounds(self) -> Iterator[list[str]]:
        """Acts, round after round; after each everything is to be well again."""
        while True:
            lines: list[str] = []
            for _ in range(self._random.randint(*LENGTH)):
                if line := self._one():
                    lines += [line, *self._then()]
            yield [*lines, "quiet"]
            self._afflicted.clear()
            self._away = False

    def _then(self) -> list[str]:
        draw = self._random.random()
        if draw < 0.35:
            return ["settle"]
        return [f"pause {self._random.uniform(0.05, 3.5):.2f}"] if draw < 0.8 else []

    def _one(self) -> str:
        kinds: list[tuple[int, Callable[[], str]]] = [
            (24, self._of_slots),
            (12, self._of_listeners),
            (10, self._of_server),
            (10, self._of_gateways),
            (30, self._of_devices),
        ]
        ((_, act),) = self._random.choices(kinds, [weight for weight, _ in kinds])
        return act()

    def _serving(self) -> list[str]:
        return sorted(self._present - self._drained - self._backups - self._afflicted)

    def _of_slots(self) -> str:
        random, serving = self._random, self._serving()
        some = random.choice(serving)
        kind = random.choice(("weight", "weight", "add", "drain", "undrain", "backup", "replace"))
        spare = len(serving) > 2
        if kind == "weight":
            return f"weight {some} {random.choice((1, 2, 3, 5, 1, 0 if spare else 1))}"
        if kind == "add" and self._absent:
            added = self._absent.pop()
            self._present.add(added)
            return f"add {added}"
        if kind == "add" and spare:
            self._gone(some)
            return f"remove {some}"
        if kind == "replace" and self._absent and spare:
            other = self._absent.pop()
            self._gone(some)
            self._present.add(other)
            return f"replace {some} {other}"
        return self._marked(kind, some, spare)

    def _marked(self, kind: str, some: str, spare: bool) -> str:
        marks = self._backups if kind == "backup" else self._drained
        if marks and (kind in ("backup", "undrain") or not spare):
            name = marks.pop()
            return f"backup {name} off" if kind == "backup" else f"undrain {name}"
        if not spare or kind not in ("drain", "backup"):
            return ""
        marks.add(some)
        return f"backup {some} on" if kind == "backup" else f"drain {some}"

    def _gone(self, gateway: str) -> None:
        self._present.discard(gateway)
        self._absent.add(gateway)

    def _turned(self, act: str) -> str:
        one, other = TURNS[act]
        word = other if self._words.get(act, one) == one else one
        self._words[act] = word
        return f"{act} {word}"

    def _of_listeners(self) -> str:
        random = self._random
        kinds = ["balance", "balance", "ports"]
        if self._forwarding != "dsr":
            kinds += ["sticky", "limit", "slow_start", "port", "room"]
        kind = random.choice(kinds)
        if kind == "balance":
            dsr = self._forwarding == "dsr"
            return f"balance {random.choice(HASHES if dsr else (*HASHES, *OTHERS, 'hash'))}"
        if kind == "room":
            return f"room {random.choice(self._serving())} {random.choice((0, 20, 40))}"
        if kind == "ports":
            # Of all ports there is no other listener of TCP; with `dsr` they are not remembered.
            other = "all" if self._forwarding == "snat" and random.random() < 0.5 else "range"
            now = self._words.get("ports", "single")
            self._words["ports"] = "single" if now != "single" else other
            return f"ports {self._words['ports']}"
        return self._turned(kind)

    def _of_server(self) -> str:
        random = self._random
        kinds = ("vip", "mac", "rename", "order", "crowd", "rank", "preempt", "profile", "forward")
        kind = random.choice(kinds)
        if kind == "rename":
            one, two = random.sample(sorted(self._present), 2)
            return f"rename {one} {two}"
        if kind == "order":
            return f"order {random.randrange(1000)}"
        if kind == "rank":
            return f"rank {' '.join(random.sample(self._carriers, len(self._carriers)))}"
        if kind == "forward":
            if self._forwarding != "snat" or self._words.get("ports") == "all":
                return ""
            self._forwarding = "routed"
            return "forward routed"
        return self._turned(kind)

    def _of_gateways(self) -> str:
        if self._afflicted:
            return f"recovers {self._afflicted.pop()}"
        if len(serving := self._serving()) < 3:
            return ""
        some = self._random.choice(serving)
        self._afflicted.add(some)
        return f"{self._random.choice(('dies', 'unreached', 'unreached', 'ill', 'ill'))} {some}"

    def _of_devices(self) -> str:
        random = self._random
        if self._away and random.random() < 0.6:
            self._away = False
            return "back"
        who = random.choice(("primary", "primary", "other"))
        fails = ("crash", "reboot", "kill", "stop", "hang", "unplug", "isolate")
        moves = ("promote", "promote", "promote", "drain_device", "leave", "flush", "restart_all")
        kind = random.choice(moves if self._away else fails + moves)
        if kind in fails:
            self._away = True
            return f"{kind} {who}"
        if kind == "promote":
            return "promote other"
        if kind == "leave" and (self._away or self._words.get("drain_device") == "yes"):
            # Perhaps nobody else may serve, and gateways would speak to clients past all devices;
            # or nobody can confirm that it left, and it would be asked what it no longer knows.
            return ""
        if kind == "drain_device":
            drained = self._words.get(kind) == "yes"
            self._words[kind] = "no" if drained else "yes"
            return "undrain_devices" if drained else f"drain_device {who}"
        return kind if kind == "restart_all" else f"{kind} {who}"
