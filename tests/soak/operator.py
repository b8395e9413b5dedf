"""What operators do meanwhile: they edit, promote and drain, by chance, through ``halbctl``."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from random import Random
from typing import Any

from halbctl.lab.plan import VIP, VIP6
from halbctl.lab.servers import BANNER, ECHO
from protocol.errors import ExitCode
from tests.soak.chance import Kinds, drawn
from tests.soak.stage import EXTRAS, LASTING, MORE_VIP, SIX, WEB, Stage
from tests.soak.wishes import Wishes

NOT_DONE = frozenset({ExitCode.FAILED, ExitCode.USAGE, ExitCode.CONFLICT, ExitCode.NO_QUORUM})
"""Exit codes that promise that nothing was changed."""
_BALANCES = ("round-robin", "hash", "least-connections", "random", "source-hash")


class Operator:
    """Commands any device that runs, and remembers what was committed."""

    def __init__(self, stage: Stage, random: Random) -> None:
        self._stage, self._random = stage, random
        self.wishes = Wishes(stage.document)
        self.drained: set[str] = set()
        self.outcomes: dict[int, int] = {}
        self._kinds: Kinds = [
            (5, self._weight),
            (4, self._promote),
            (3, self._drain_device),
            (3, self._drain_gateway),
            (3, self._add_or_remove_gateway),
            (3, self._create_or_delete),
            (2, self._more_vips),
            (2, self._listeners),
            (2, self._balance),
            (2, self._apply),
        ]

    def step(self) -> None:
        """Do one thing."""
        drawn(self._random, self._kinds)()

    def undrain(self) -> None:
        """Let all devices serve again, whatever was known to be drained."""
        for device in self._stage.carriers:
            self._run("undrain", device, "device", "undrain", device)
        self.drained.clear()

    def _run(self, what: str, subject: str, *command: str) -> int | None:
        """The exit code; None if the command did not end."""
        asked = self._random.choice(self._stage.running() or self._stage.devices)
        note = self._stage.journal.note
        note("act", what, subject, f"asks {asked}: {' '.join(command)}")
        began = time.monotonic()
        try:
            outcome = self._stage.site.halbctl(asked, *command)
        except subprocess.TimeoutExpired:
            self._stage.journal.violation("command", f"{command} did not end within a minute")
            return None
        took = time.monotonic() - began
        note("act", f"did-{what}", subject, f"{outcome.code} in {took:.2f} s {outcome.errors!r}")
        if "Traceback" in outcome.errors:
            self._stage.journal.violation("traceback", f"{command}: {outcome.errors}")
        self.outcomes[outcome.code] = self.outcomes.get(outcome.code, 0) + 1
        return outcome.code

    def _change(
        self, what: str, subject: str, wanted: dict[str, Any], *command: str, whole: bool = False
    ) -> None:
        code = self._run(what, subject, *command)
        if code not in NOT_DONE:
            self.wishes.tried(wanted, committed=code == ExitCode.DONE, whole=whole)
        else:
            self.wishes.begun(wanted)

    def _copy(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is believed in, to be changed; and the Virtual Servers in it by name."""
        wanted = copy.deepcopy(self.wishes.document)
        return wanted, {server["name"]: server for server in wanted["virtual_servers"]}

    def _some_gateway(self, servers: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        name = self._random.choice(LASTING)
        return name, self._random.choice(servers[name]["gateways"])

    def _weight(self) -> None:
        wanted, servers = self._copy()
        name, gateway = self._some_gateway(servers)
        gateway["weight"] = self._random.randint(1, 4)
        self._change(
            "slots", name, wanted,
            "gateway", "set", name, gateway["name"], "--weight", str(gateway["weight"]),
        )  # fmt: skip

    @staticmethod
    def _all_serve(server: dict[str, Any], gateway: dict[str, Any]) -> bool:
        """Whether every gateway of the same IP version takes connections."""
        return all(_enabled(g) for g in server["gateways"] if _six(g) == _six(gateway))

    def _drain_gateway(self) -> None:
        wanted, servers = self._copy()
        name, gateway = self._some_gateway(servers)
        leaving = not _enabled(gateway)
        if not leaving and not self._all_serve(servers[name], gateway):
            return  # too few would be left when others die
        gateway["state"] = "enabled" if leaving else "draining"
        what, verb = ("slots", "undrain") if leaving else ("drained", "drain")
        self._change(what, name, wanted, "gateway", verb, name, gateway["name"])

    def _add_or_remove_gateway(self) -> None:
        wanted, servers = self._copy()
        name, gateway = self._some_gateway(servers)
        there = {each["name"] for each in servers[name]["gateways"]}
        six = _six(gateway)
        all_of_them = {
            f"{host.name}-6" if six else host.name: host.ipv6 if six else host.ipv4
            for host in self._stage.site.plan.gateway_hosts
        }
        missing = sorted(all_of_them.keys() - there)
        if missing:
            added, address = missing[0], all_of_them[missing[0]]
            written = f"[{address}]" if six else address
            new = {"name": added, "address": address, "weight": 2}
            servers[name]["gateways"].append(new)
            self._change("slots", name, wanted, "gateway", "add", name, f"{added}={written}:2")
            return
        if _enabled(gateway) and not self._all_serve(servers[name], gateway):
            return
        servers[name]["gateways"].remove(gateway)
        self._stage.journal.note("act", "removed", f"{name}/{gateway['name']}")
        command = ("gateway", "remove", name, gateway["name"], "--force")
        self._change("slots", name, wanted, *command)

    def _create_or_delete(self) -> None:
        wanted, servers = self._copy()
        name, vip = self._random.choice(list(EXTRAS.items()))
        if name in servers:
            wanted["virtual_servers"].remove(servers[name])
            self._change("delete", name, wanted, "vs", "delete", name, "--yes")
            return
        gateway = {"name": "gw1", "address": "10.77.0.31", "weight": 1}
        voice = self._stage.third_voice
        options = ("--arbiter", voice["arbiter"]) if "arbiter" in voice else ()
        options = ("--witness", *voice["witnesses"]) if "witnesses" in voice else options
        wanted["virtual_servers"].append(
            {
                **voice,
                "name": name,
                "vips": [f"{vip}/24"],
                "gateways": [gateway],
                "listeners": [{"protocol": "tcp", "port": BANNER}],
            }
        )
        self._change(
            "create", name, wanted,
            "vs", "create", name, "--vip", f"{vip}/24", "--tcp", str(BANNER),
            "--gateway", "gw1=10.77.0.31", *options,
        )  # fmt: skip

    def _more_vips(self) -> None:
        wanted, servers = self._copy()
        more = [] if any(MORE_VIP in vip for vip in servers[WEB]["vips"]) else [f"{MORE_VIP}/24"]
        servers[WEB]["vips"] = [f"{VIP}/24", f"{VIP6}/64", *more]
        options = [word for vip in servers[WEB]["vips"] for word in ("--vip", vip)]
        self._change("vips", WEB, wanted, "vs", "edit", WEB, *options)

    def _listeners(self) -> None:
        wanted, servers = self._copy()
        present = [name for name in EXTRAS if name in servers]
        if not present:
            return
        name = self._random.choice(present)
        ports = self._random.choice(((BANNER,), (BANNER, ECHO)))
        servers[name]["listeners"] = [{"protocol": "tcp", "port": port} for port in ports]
        options = [word for port in ports for word in ("--tcp", str(port))]
        self._change("listeners", name, wanted, "vs", "edit", name, *options)

    def _balance(self) -> None:
        wanted, servers = self._copy()
        balance = self._random.choice(_BALANCES)
        for listener in servers[SIX]["listeners"]:
            listener["balance"] = balance
        self._change("slots", SIX, wanted, "vs", "edit", SIX, "--balance", balance)

    def _apply(self) -> None:
        wanted, servers = self._copy()
        for name in LASTING:
            for gateway in servers[name]["gateways"]:
                gateway["weight"] = self._random.randint(1, 4)
            self._stage.journal.note("act", "slots", name, "by a document")
        path = self._stage.site.folder / "soak.yaml"
        path.write_text(json.dumps({"virtual_servers": wanted["virtual_servers"]}))
        self._change("apply", "", wanted, "apply", "--yes", "-f", str(path), whole=True)

    def _promote(self) -> None:
        server = self._random.choice(LASTING)
        to = self._random.choice(self._stage.carriers)
        self._run("promote", server, "promote", server, "--to", to, "--wait")

    def _drain_device(self) -> None:
        if self.drained:
            device = self.drained.pop()
            self._run("undrain", device, "device", "undrain", device)
        else:
            device = self._random.choice(self._stage.carriers)
            self.drained.add(device)
            self._run("drain", device, "device", "drain", device)


def _enabled(gateway: dict[str, Any]) -> bool:
    return bool(gateway.get("state", "enabled") == "enabled")


def _six(gateway: dict[str, Any]) -> bool:
    return ":" in gateway["address"]
