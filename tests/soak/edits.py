"""What operators change in a Site of :mod:`lives`, by commands and by documents."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

from halbctl.lab.plan import INNER, INNER6, VIP, VIP6, VIRTUAL_SERVER, Plan
from halbctl.lab.servers import BANNER, ECHO
from protocol.errors import ExitCode, HalbError
from tests.soak.gateway import ELSEWHERE, NAMED, TALKING
from tests.soak.stage import MORE_VIP, Stage

PATIENCE_S = 15.0
"""Seconds for which a command is repeated where no coordinator takes it."""
CROWD = 12
"""Virtual Servers beside, when there are any."""
_AGAIN = {ExitCode.NO_QUORUM, ExitCode.NOT_COMMITTED, ExitCode.TIMED_OUT, ExitCode.UNREACHABLE}
_CHECK = {"type": "tcp", "interval": 0.5, "timeout": 0.5}


def text(document: dict[str, Any]) -> str:
    """As ``halbctl apply`` takes it."""
    return json.dumps(document)


def document(plan: Plan, balance: str) -> dict[str, Any]:
    """The Virtual Server as it begins."""
    document: dict[str, Any] = json.loads(plan.document())
    (server,) = document["virtual_servers"]
    server["listeners"] = [
        {"protocol": protocol, "port": port, "balance": balance, "check": _CHECK}
        for protocol, port in (("tcp", NAMED), ("tcp", TALKING), ("udp", ECHO))
    ]
    return document


def _served(document: dict[str, Any]) -> dict[str, Any]:
    """The Virtual Server that has the connections."""
    servers: list[dict[str, Any]] = document["virtual_servers"]
    return next(server for server in servers if server["name"] == VIRTUAL_SERVER)


class Edits:
    """Carries them out, each by its name."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._site, self._note = stage, stage.site, stage.journal.note
        self.document = stage.document
        self.away: dict[str, Callable[[], None]] = {}
        """Devices that fail, and what ends that."""

    def _command(self, *words: str) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            asked = [n for n in self._stage.devices if n not in self.away]
            try:
                outcome = self._site.halbctl(asked[0], *words)
            except subprocess.TimeoutExpired:
                self._stage.journal.violation("command", f"{words} did not end within a minute")
                return False
            if outcome.code == ExitCode.DONE:
                return True
            if outcome.code not in _AGAIN or time.monotonic() > deadline:
                self._note("act", "refused", " ".join(words), outcome.errors.strip())
                self._reread(asked[0])
                return False
            time.sleep(0.2)

    def _reread(self, device: str) -> None:
        with suppress(HalbError):
            self.document = self._site.ask(device, "export")["document"]

    def _change(self, *words: str) -> None:
        """A command, after which the document is what the Site says."""
        if self._command(*words):
            self._reread(next(n for n in self._stage.devices if n not in self.away))

    def _apply(self, change: Callable[[dict[str, Any]], None]) -> None:
        document = copy.deepcopy(self.document)
        change(_served(document))
        self._apply_all(document)

    def _apply_all(self, document: dict[str, Any]) -> None:
        path = self._site.folder / "lives.yaml"
        path.write_text(text(document))
        if self._command("apply", "--yes", "-f", str(path)):
            self.document = document

    def _addresses(self, gateway: str) -> dict[str, str]:
        """Of a host, each with the name that it begins with."""
        host = self._site.plan.host(gateway)
        return {host.ipv4: gateway, host.ipv6: f"{gateway}-6"}

    def _both(self, verb: str, gateway: str, *words: str) -> None:
        """For both addresses of a host, whatever their names are now."""
        addresses = self._addresses(gateway)
        for each in _served(self.document)["gateways"]:
            if each["address"] in addresses:
                self._change("gateway", verb, VIRTUAL_SERVER, each["name"], *words)

    def _new(self, gateway: str) -> list[dict[str, Any]]:
        """A host as gateways of both IP versions, with names that are free."""
        taken = {each["name"] for each in _served(self.document)["gateways"]}
        return [
            {"name": f"{name}-again" if name in taken else name, "address": address}
            for address, name in self._addresses(gateway).items()
        ]

    def weight(self, gateway: str, weight: str) -> None:
        self._both("set", gateway, "--weight", weight)

    def drain(self, gateway: str) -> None:
        self._both("drain", gateway)

    def undrain(self, gateway: str) -> None:
        self._both("undrain", gateway)

    def backup(self, gateway: str, word: str) -> None:
        self._both("set", gateway, "--backup" if word == "on" else "--no-backup")

    def room(self, gateway: str, number: str) -> None:
        self._both("set", gateway, "--max-connections", number)

    def add(self, gateway: str) -> None:
        for each in self._new(gateway):
            address = f"[{each['address']}]" if ":" in each["address"] else each["address"]
            self._change("gateway", "add", VIRTUAL_SERVER, f"{each['name']}={address}")

    def remove(self, gateway: str) -> None:
        self._both("remove", gateway, "--force")

    def replace(self, gateway: str, other: str) -> None:
        """One gateway goes and another one comes, in one change."""

        def change(server: dict[str, Any]) -> None:
            gone = self._addresses(gateway)
            staying = [g for g in server["gateways"] if g["address"] not in gone]
            server["gateways"] = [*staying, *self._new(other)]

        self._apply(change)

    def rename(self, gateway: str, other: str) -> None:
        """Two gateways change names."""

        def change(server: dict[str, Any]) -> None:
            by_address = {each["address"]: each for each in server["gateways"]}
            for pair in zip(self._addresses(gateway), self._addresses(other), strict=True):
                one, two = (by_address[address] for address in pair)
                one["name"], two["name"] = two["name"], one["name"]

        self._apply(change)

    def order(self, seed: str) -> None:
        """The gateways are written in another order."""
        self._apply(lambda server: Random(seed).shuffle(server["gateways"]))

    def _listeners(self, **values: Any) -> None:
        def change(server: dict[str, Any]) -> None:
            for listener in server["listeners"]:
                listener.update(values)

        self._apply(change)

    def balance(self, policy: str) -> None:
        self._listeners(balance=policy)

    def sticky(self, seconds: str) -> None:
        self._listeners(sticky=int(seconds))

    def limit(self, number: str) -> None:
        self._listeners(client_connections=int(number))

    def slow_start(self, seconds: str) -> None:
        self._apply(lambda server: server.update(slow_start=int(seconds)))

    def port(self, word: str) -> None:
        """Gateways listen elsewhere."""

        def change(server: dict[str, Any]) -> None:
            for listener in server["listeners"]:
                if listener["protocol"] == "tcp" and isinstance(listener["port"], int):
                    more = ELSEWHERE if word == "other" else 0
                    listener["gateway_port"] = listener["port"] + more

        self._apply(change)

    def ports(self, word: str) -> None:
        """The listeners of TCP are one of a range, or of ``all``; or one each."""

        def change(server: dict[str, Any]) -> None:
            tcp = next(each for each in server["listeners"] if each["protocol"] == "tcp")
            others = [each for each in server["listeners"] if each["protocol"] != "tcp"]
            tcp = {key: value for key, value in tcp.items() if key != "gateway_port"}
            ranges = {"range": f"{NAMED}-{TALKING}", "all": "all"}
            ports = [ranges[word]] if word in ranges else [NAMED, TALKING]
            check = {**_CHECK, "port": NAMED} if word in ranges else _CHECK
            mine = [{**tcp, "port": port, "check": check} for port in ports]
            server["listeners"] = [*mine, *others]

        self._apply(change)

    def vip(self, word: str) -> None:
        def change(server: dict[str, Any]) -> None:
            more = [f"{MORE_VIP}/24"] if word == "more" else []
            server["vips"] = [f"{VIP}/24", f"{VIP6}/64", *more]

        self._apply(change)

    def mac(self, word: str) -> None:
        self._change("vs", "edit", VIRTUAL_SERVER, "--virtual-mac", word)

    def preempt(self, word: str) -> None:
        self._change("vs", "edit", VIRTUAL_SERVER, "--preempt", word)

    def profile(self, word: str) -> None:
        self._change("vs", "edit", VIRTUAL_SERVER, "--profile", word)

    def rank(self, *devices: str) -> None:
        """Who may carry it, in this order."""
        words = [word for device in devices for word in ("--device", device)]
        self._change("vs", "edit", VIRTUAL_SERVER, *words)

    def crowd(self, word: str) -> None:
        """Other Virtual Servers come and go."""
        mine = _served(self.document)
        others = [
            {
                **{key: mine[key] for key in ("witnesses", "arbiter") if key in mine},
                "name": f"other{n}",
                "vips": [f"10.77.0.{120 + n}/24"],
                "gateways": [{"name": "gw1", "address": "10.77.0.31"}],
                "listeners": [{"protocol": "tcp", "port": BANNER}],
            }
            for n in range(CROWD)
        ]
        servers = [mine, *(others if word == "comes" else [])]
        self._apply_all({**self.document, "virtual_servers": servers})

    def forward(self, word: str) -> None:
        def change(server: dict[str, Any]) -> None:
            server["forwarding"] = word
            server.pop("inner_vips", None)
            if word == "routed":
                server["inner_vips"] = [f"{INNER}/24", f"{INNER6}/64"]

        self._apply(change)
