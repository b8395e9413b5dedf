"""The lab of the soak: its Virtual Servers, and the processes that look at it all the time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from halbctl.lab.lifecycle import build, down
from halbctl.lab.modes import prepare_dsr
from halbctl.lab.namespaces import INTERFACE, SWITCH
from halbctl.lab.plan import CLIENT, VIP, VIP6, WITNESS, Plan
from halbctl.lab.probes import Probe, python_environment
from halbctl.lab.processes import Service
from halbctl.lab.servers import BANNER, ECHO
from halbctl.lab.site import START_TIMEOUT, Site, apply, form, start_server
from protocol.api import DEFAULT_PORT
from protocol.errors import HalbError
from tests.soak.clocks import Clocks
from tests.soak.gateway import NAMED, TALKING
from tests.soak.holder import GIVE_UP, PORTS, Lost, Tally, Target
from tests.soak.journal import Journal

GATEWAYS = 4
WEB, FLOW, SIX, DIRECT = "web", "flow", "six", "direct"
LASTING = (WEB, FLOW, SIX, DIRECT)
"""Virtual Servers that are always there."""
MORE_VIP = "10.77.0.106"
"""One that ``web`` gets and loses."""
INNER = "10.77.0.101"
FLOW_VIP, SIX_VIP, DIRECT_VIP = "10.77.0.103", "fd77::104", "10.77.0.105"
ASKING = "10.77.0.204"
"""Of the client with ``direct``: gateways answer its other address by way of the inner VIP."""
EXTRAS = {f"extra{n}": f"10.77.0.{110 + n}" for n in (1, 2)}
"""Virtual Servers that come and go, and their VIPs."""
TARGETS = (
    Target(WEB, "echo", VIP, 24),
    Target(WEB, "push", VIP, 12),
    Target(WEB, "udp", VIP, 12),
    Target(WEB, "echo", VIP6, 12),
    Target(FLOW, "echo", FLOW_VIP, 16),
    Target(SIX, "echo", SIX_VIP, 12),
    Target(SIX, "push", SIX_VIP, 8),
    Target(DIRECT, "echo", DIRECT_VIP, 12),
    Target(DIRECT, "push", DIRECT_VIP, 8),
)
WATCHED = (VIP, VIP6, FLOW_VIP, INNER, SIX_VIP, DIRECT_VIP, MORE_VIP, *EXTRAS.values())
_LINKS = f"{DEFAULT_PORT}-{DEFAULT_PORT + 2}"
_CUT_LINKS_ONLY = f"""
flush chain bridge cuts forward
add rule bridge cuts forward iifname . oifname @pairs tcp dport {_LINKS} drop
add rule bridge cuts forward iifname . oifname @pairs tcp sport {_LINKS} drop
"""
"""Two devices ask each other for the VIPs on their network: where they are cut off from each
other there, too, both serve, as docs/protocol.md says."""
_CHECK = {"type": "tcp", "interval": 0.5, "timeout": 0.5}


def document(plan: Plan, *, sticky: bool) -> dict[str, Any]:
    """What the Site begins with; ``sticky``: the routed Virtual Server remembers its flows."""
    names = [host.name for host in plan.device_hosts if host != WITNESS]

    def listener(port: int, protocol: str = "tcp", **more: Any) -> dict[str, Any]:
        return {"protocol": protocol, "port": port, "check": _CHECK, **more}

    def server(name: str, turn: int, vips: list[str], listeners: list[Any]) -> dict[str, Any]:
        six = [g for g in plan.gateway_hosts if any(":" in vip for vip in vips)]
        four = [g for g in plan.gateway_hosts if any(":" not in vip for vip in vips)]
        gateways = [(g.name, g.ipv4) for g in four] + [(f"{g.name}-6", g.ipv6) for g in six]
        arbiter = CLIENT.ipv4 if four else CLIENT.ipv6
        return {
            **_third_voice(plan, arbiter),
            "name": name,
            "vips": vips,
            "devices": names[turn:] + names[:turn],
            "gateways": [{"name": n, "address": a, "weight": 2} for n, a in gateways],
            "listeners": listeners,
        }

    web = [listener(NAMED), listener(TALKING), listener(BANNER), listener(ECHO, "udp")]
    turns = [listener(p, balance="round-robin") for p in (NAMED, TALKING)]
    routed = listener(NAMED, sticky=60 if sticky else 0)
    return {
        "virtual_servers": [
            server(WEB, 0, [f"{VIP}/24", f"{VIP6}/64"], web),
            {
                **server(FLOW, 1, [f"{FLOW_VIP}/24"], [routed]),
                "forwarding": "routed",
                "inner_vips": [f"{INNER}/24"],
            },
            server(SIX, 2, [f"{SIX_VIP}/64"], turns),
            {
                **server(DIRECT, 1, [f"{DIRECT_VIP}/24"], [listener(p) for p in (NAMED, TALKING)]),
                "forwarding": "dsr",
            },
        ]
    }


def _third_voice(plan: Plan, arbiter: str) -> dict[str, Any]:
    """What decides between two devices."""
    if plan.witness:
        return {"witnesses": [WITNESS.name]}
    return {"arbiter": arbiter} if plan.devices == 2 else {}


@dataclass
class Stage:
    """A lab that serves, and what is known of it."""

    site: Site
    journal: Journal
    document: dict[str, Any]
    clocks: Clocks
    ended: set[str] = field(default_factory=set)
    """Devices whose agents were ended, or are being started."""
    stopped: set[str] = field(default_factory=set)
    """Devices whose agents hang."""
    losses: list[Lost] = field(default_factory=list)
    tally: Tally | None = None
    over: threading.Event = field(default_factory=threading.Event)
    inquiries: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    """Asks devices what they think of what was reset, beside everything else."""
    tell_client: Callable[[str], None] = lambda command: None
    """Tell the client what to do: see :mod:`holder`."""
    targets: tuple[Target, ...] = TARGETS

    def give_up_silent(self) -> None:
        """Have the client close the connections that do not speak, and dial others."""
        self.tell_client(GIVE_UP)

    @property
    def devices(self) -> list[str]:
        return [host.name for host in self.site.plan.device_hosts]

    @property
    def carriers(self) -> list[str]:
        """Devices that may carry Virtual Servers: all but a witness."""
        return [name for name in self.devices if name != WITNESS.name]

    @property
    def third_voice(self) -> dict[str, Any]:
        """What a new IPv4 Virtual Server of two devices needs beside them."""
        return _third_voice(self.site.plan, CLIENT.ipv4)

    @property
    def gateways(self) -> list[str]:
        return [host.name for host in self.site.plan.gateway_hosts]

    def running(self) -> list[str]:
        """Devices whose agents should answer."""
        return [name for name in self.devices if name not in self.ended | self.stopped]

    def named(self, gateway: str) -> Service:
        """The server of a gateway that says who it is."""
        return Service("named", self.site.folder / gateway)

    def start_gateway(self, gateway: str) -> None:
        start_server(self.site, gateway)
        start_named(self.site, gateway)

    def kill_gateway(self, gateway: str) -> None:
        self.site.service(gateway).kill()
        self.named(gateway).kill()


def start_named(site: Site, gateway: str) -> None:
    argv = [sys.executable, "-m", "tests.soak.gateway", gateway]
    service = Service("named", site.folder / gateway)
    service.start(site.network.within(gateway, argv), python_environment())


@contextmanager
def staged(devices: int, journal: Journal, *, witness: bool, sticky: bool) -> Iterator[Stage]:
    """A lab with all its Virtual Servers in order, and the client's connections."""
    plan = Plan(f"soak{journal.seed % 100000}", devices, GATEWAYS, witness=witness, ipv6=True)
    names = [host.name for host in plan.device_hosts]
    clocks = Clocks(journal.folder / "clocks", names)
    with clocks.in_force():
        yield from _staged(plan, journal, clocks, sticky=sticky)


def _staged(plan: Plan, journal: Journal, clocks: Clocks, *, sticky: bool) -> Iterator[Stage]:
    try:
        site = build(plan)
        for host in plan.gateway_hosts:
            start_named(site, host.name)
            route = ("ip", "route", "replace", f"{CLIENT.ipv4}/32", "via", INNER)
            site.network.run(host.name, *route)
        prepare_dsr(site, DIRECT_VIP, ASKING)
        if plan.devices == 2 and not plan.witness:
            site.network.run(SWITCH, "nft", "-f", "-", text=_CUT_LINKS_ONLY)
        form(site)
        stage = Stage(site, journal, document(plan, sticky=sticky), clocks)
        apply(site, json.dumps(stage.document))
        site.wait("all Virtual Servers are in order", lambda: _in_order(stage), START_TIMEOUT)
        with holding(stage):
            yield stage
    finally:
        down(plan.name)


def _in_order(stage: Stage) -> bool:
    servers = [s for name in stage.devices for s in stage.site.status(name)["virtual_servers"]]
    wanted = len(stage.devices) * len(stage.document["virtual_servers"])
    return len(servers) == wanted and all(server["state"] == "ok" for server in servers)


@contextmanager
def holding(stage: Stage) -> Iterator[None]:
    """The client's connections, and a thread that reads what becomes of them."""
    told = json.dumps([asdict(target) for target in stage.targets])
    argv = [sys.executable, "-m", "tests.soak.holder", told]
    complaints = stage.journal.folder / "holder.log"
    with complaints.open("w") as stderr:
        process = subprocess.Popen(
            stage.site.network.within(CLIENT.name, argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=python_environment(),
            text=True,
        )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told.pop("what") == "Lost":
                lost = Lost(**told)
                stage.losses.append(lost)
                about = stage.targets[lost.target]
                stage.journal.note("saw", "lost", f"{about.server}/{lost.gateway}", str(lost))
                if lost.reset_by:
                    stage.inquiries.submit(inquire, stage, about, lost)
            else:
                silent = tuple(Lost(**each) for each in told.pop("silent"))
                stage.tally = Tally(silent=silent, **told)
        if not stage.over.is_set():
            why = complaints.read_text()[-1000:]
            stage.journal.violation("instruments", f"the client ended by itself: {why}")

    def tell(command: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{command}\n")
        process.stdin.flush()

    stage.tell_client = tell
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        stage.over.set()
        process.kill()
        process.wait()
        reader.join(5)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def inquire(stage: Stage, about: Target, lost: Lost) -> None:
    """Note to which gateway each device would send what was reset, and which ones it sees down."""
    client = CLIENT.ipv6 if ":" in about.vip else CLIENT.ipv4
    client = ASKING if about.server == DIRECT else client
    question: dict[str, Any] = {"client": client, "port": lost.port}
    for device in stage.running():
        try:
            found = stage.site.ask(
                device, "trace", virtual_server=about.server, listener=PORTS[about.kind], **question
            )
            told = stage.site.virtual_server(device, about.server)
        except HalbError as error:
            stage.journal.note("saw", "trace", device, error.message)
            continue
        down = [g["name"] for g in told["gateways"] if g["state"] != "up"]
        what = f"{found['gateway']} by {found['how']} {found['slot']}, not up: {down}"
        stage.journal.note("saw", "trace", f"{device} {lost.port}", what)


def owners(stage: Stage) -> Probe:
    """The instrument that asks who answers for each VIP."""
    return Probe(stage.site.network, "observer", "owners", INTERFACE, *WATCHED)
